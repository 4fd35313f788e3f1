"""A training run with a policy that was not trained: a small fixed network, made without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agents.sac.policy import FORMAT
from agents.training_run import Span, TrainingRun
from envs.features import FeatureConfig, feature_names
from envs.observation import observation_spec
from envs.risk import RiskLimits
from envs.scaler import FeatureScaler
from envs.settings import EnvConfig
from envs.time_grid import interval_to_ms

FEATURES = FeatureConfig.model_validate(
    {"indicators": [{"name": "log_return", "periods": 1}, {"name": "rsi", "period": 5}]}
)


def tanh_graph(weights: np.ndarray[Any, Any], observation_hash: str) -> bytes:
    """An ONNX policy: action = tanh(observation @ weights), weights float32 [size, n]."""
    size, n = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["observation", "weights"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["action"]),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", n])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"format": FORMAT, "observation_hash": observation_hash})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_run(
    root: Path,
    *,
    symbols: Sequence[str] = ("BTCUSDT",),
    interval: str = "1h",
    spans: Mapping[str, tuple[int, int]] | None = None,
    env: EnvConfig | None = None,
    risk: RiskLimits | None = None,
    data: Mapping[str, Any] | None = None,
    data_hash: str = "",
) -> TrainingRun:
    """A run in `root` that `load_sac_setup` takes; `data` is what it says that it was trained on."""
    env = EnvConfig(window_size=4) if env is None else env
    names = feature_names(FEATURES, symbols)
    spec = observation_spec(symbols, interval_to_ms(interval), names, env)
    run = TrainingRun.create(
        root,
        symbols=symbols,
        start_ms=1_672_531_200_000,
        end_ms=1_675_209_600_000,
        learning_rate=3e-4,
        batch_size=256,
        window_size=env.window_size,
    )
    times = spans or {"train": (0, 1), "validation": (1, 2), "test": (2, 3)}
    run.write_metadata(
        {
            "env": env.model_dump(mode="json"),
            "features": FEATURES.model_dump(mode="json"),
            "risk": (risk or RiskLimits()).model_dump(mode="json"),
            "market": {"symbols": list(symbols), "interval": interval, "hash": data_hash},
            **({"data": dict(data)} if data else {}),
            "observation_hash": spec.hash,
            "seed": 0,
            "interrupted": False,
            "spans": {name: Span(*span).to_dict(0) for name, span in times.items()},
        }
    )
    scaler = FeatureScaler(names, np.zeros(len(names)), np.full(len(names), 0.05), "standard")
    scaler.save(run.scaler_path)
    weights = np.random.default_rng(7).normal(0.0, 0.6, (spec.size, len(symbols)))
    run.write_policy(tanh_graph(weights, spec.hash))
    return run
