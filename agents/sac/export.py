"""From a Stable-Baselines3 actor to the ONNX graph that runs it.

The graph is written node by node from the weights: a few matrix products need no tracing, and the same weights
always give the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import FlattenExtractor

from agents.sac.algorithm import DivergedError
from agents.sac.policy import FORMAT, INPUT, OUTPUT, OnnxPolicy
from envs.errors import PerpgymError
from envs.observation import CLIP

TOLERANCE = 1e-5
CHECKED_OBSERVATIONS = 1_000

# Old enough for every onnxruntime that pyproject.toml allows.
_OPSET, _IR_VERSION = 17, 8
_ACTIVATIONS = {torch.nn.ReLU: "Relu", torch.nn.Tanh: "Tanh"}


def actor_to_onnx(model: SAC, observation_hash: str) -> bytes:
    """The deterministic actor of `model` as an ONNX graph, checked against `model.predict`.

    Raises:
        DivergedError: a weight is not finite.
        PerpgymError: the actor has a layer that this cannot write, or the graph acts differently.
    """
    graph = _Graph()
    actor = model.policy.actor
    if type(actor.features_extractor) is not FlattenExtractor:
        raise PerpgymError(f"an actor with a {type(actor.features_extractor).__name__} cannot be exported")
    layers = [*actor.latent_pi, actor.mu]
    value = INPUT
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        if isinstance(layer, torch.nn.Linear):
            value = graph.linear(value, layer, "mean" if last else f"layer_{number}")
        elif type(layer) in _ACTIVATIONS:
            value = graph.add(_ACTIVATIONS[type(layer)], [value], f"activation_{number}")
        else:
            raise PerpgymError(f"an actor with a {type(layer).__name__} layer cannot be exported")
    space: Any = model.action_space
    half = ((space.high - space.low) / 2).astype(np.float32)
    centre = ((space.high + space.low) / 2).astype(np.float32)
    if np.all(half == 1) and np.all(centre == 0):
        graph.add("Tanh", [value], OUTPUT)
    else:
        value = graph.add(
            "Mul", [graph.add("Tanh", [value], "squashed"), graph.constant("half", half)], "scaled"
        )
        graph.add("Add", [value, graph.constant("centre", centre)], OUTPUT)
    size = int(np.prod(model.observation_space.shape or ()))
    data = graph.serialise(size, int(np.prod(space.shape)), observation_hash)
    verify(model, data)
    return data


class _Graph:
    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: NDArray[np.float32]) -> str:
        if not np.isfinite(values).all():
            raise DivergedError(
                "the actor's weights are not finite: the training diverged; lower sac.learning_rate or sac.reward_scale"
            )
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def linear(self, value: str, layer: torch.nn.Linear, name: str) -> str:
        weight = self.constant(f"{name}.weight", layer.weight.detach().cpu().numpy())
        bias = self.constant(f"{name}.bias", layer.bias.detach().cpu().numpy())
        return self.add("Gemm", [value, weight, bias], name, transB=1)

    def serialise(self, observation_size: int, action_size: int, observation_hash: str) -> bytes:
        graph = helper.make_graph(
            self._nodes,
            "policy",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", observation_size])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", action_size])],
            self._weights,
        )
        model = helper.make_model(
            graph,
            producer_name="perpgym",
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
        )
        helper.set_model_props(model, {"format": FORMAT, "observation_hash": observation_hash})
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def verify(model: SAC, data: bytes) -> float:
    """Largest difference between the graph's actions and `model.predict(deterministic=True)`.

    Compared on 1,000 random observations that fill the observation space.

    Raises:
        PerpgymError: they differ by more than 1e-5.
    """
    rng = np.random.default_rng(0)
    size = int(np.prod(model.observation_space.shape or ()))
    scale = rng.uniform(0.1, 4.0, (CHECKED_OBSERVATIONS, 1))
    observations = np.clip(rng.normal(size=(CHECKED_OBSERVATIONS, size)) * scale, -CLIP, CLIP).astype(
        np.float32
    )
    expected, _ = model.predict(observations, deterministic=True)
    actual = OnnxPolicy(data, source="the exported policy").batch(observations)
    difference = float(np.max(np.abs(actual - expected)))
    if not difference <= TOLERANCE:
        raise PerpgymError(
            f"the exported policy differs from the trained one by {difference:.2g} (at most {TOLERANCE:g}): "
            "the versions of onnxruntime and torch do not fit; model.zip is kept"
        )
    return difference
