"""TA-Lib's functions, for arrays.

The package `talib` takes pandas too, and imports it to do so: 70 MB and some tenths of a second that a live run does
without. So its compiled module is loaded without the package, and finds no pandas. A later `import talib` gives the
package with pandas, but for `talib.abstract`.
"""

from __future__ import annotations

import atexit
import importlib
import sys
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

from envs.leaving_out import without

_EXTENSION = "talib._ta_lib"


@cache
def ta() -> ModuleType:
    """The compiled module of TA-Lib; the whole package where it is loaded already or is not laid out as expected."""
    package = None if "talib" in sys.modules else find_spec("talib")
    if package is None or package.submodule_search_locations is None:
        return importlib.import_module("talib")
    spec = PathFinder.find_spec(_EXTENSION, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return importlib.import_module("talib")
    extension = module_from_spec(spec)
    # Under its own name, so that a later `import talib` takes this one and not a second.
    sys.modules[_EXTENSION] = extension
    with without("pandas"), without("polars"):
        spec.loader.exec_module(extension)
    if not hasattr(extension, "_ta_initialize"):
        return importlib.import_module("talib")
    extension._ta_initialize()
    atexit.register(extension._ta_shutdown)
    return extension
