"""Shared by all tests: tests/lib on the import path, and hypothesis in a form that suits two shared cores."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# --import-mode=importlib leaves the import path alone, so the helpers' folder is put there once, here. Not tests/
# itself: its folders envs, agents and live would hide the packages that they test.
sys.path.insert(0, str(Path(__file__).parent / "lib"))

# Compiling the kernel on first use makes a single example take seconds: no deadline.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("quick", max_examples=25, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=500, **_COMMON)
settings.load_profile("quick")
