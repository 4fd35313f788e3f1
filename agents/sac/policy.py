"""Running a trained policy: an ONNX graph on onnxruntime, without torch, Stable-Baselines3 or scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from agents.base import AgentSetup
from agents.training_run import TrainingRun
from envs.base import Action, Observation
from envs.errors import TrainingRunError
from envs.features import feature_names
from envs.observation import ObservationSpec

FORMAT = "perpgym-policy-1"
"""Value of `format` in the graph's metadata, which holds `observation_hash` too."""

INPUT, OUTPUT = "observation", "action"

# onnxruntime's errors share no base class of their own.
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxPolicy:
    """The deterministic actor: observation float32 [size] to action float32 [n].

    Attributes:
        observation_size: entries of the observation.
        action_size: entries of the action.
        observation_hash: of the observation that it was trained on.
    """

    def __init__(
        self, data: bytes, *, source: str, remedy: str = "train again with python -m agents.train"
    ) -> None:
        """Load a graph; `source` and `remedy` are for the error.

        Raises:
            TrainingRunError: the data are no policy.
        """
        options = ort.SessionOptions()
        # A policy of some hundred thousand weights runs faster on one thread than threads can be woken, and
        # one thread always adds in the same order.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # what is wrong is in the exception
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _LOAD_ERRORS as error:
            first = str(error).strip().split("\n", 1)[0]
            raise TrainingRunError(f"{source} is damaged ({first}); {remedy}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [list(one.shape) for one in (*inputs, *outputs)]
        if (
            metadata.get("format") != FORMAT
            or [one.name for one in (*inputs, *outputs)] != [INPUT, OUTPUT]
            or any(len(shape) != 2 or not isinstance(shape[1], int) for shape in shapes)
        ):
            raise TrainingRunError(f"{source} is an ONNX graph, but not a policy ({FORMAT}); {remedy}")
        self.observation_size: int = shapes[0][1]
        self.action_size: int = shapes[1][1]
        self.observation_hash: str = metadata.get("observation_hash", "")

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """The action for one observation."""
        batch = np.ascontiguousarray(observation, dtype=np.float32).reshape(1, -1)
        action: NDArray[np.float32] = self._session.run((OUTPUT,), {INPUT: batch})[0][0]
        return action

    def batch(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions [N, n] for observations [N, size]."""
        actions: NDArray[np.float32] = self._session.run((OUTPUT,), {INPUT: observations})[0]
        return actions


class SacAgent:
    """A trained policy as an agent: deterministic, and the same in a backtest and live.

    Attributes:
        name: in the step log and in client order ids.
        train_id: the run that it comes from; for errors.
    """

    def __init__(self, policy: OnnxPolicy, *, train_id: str, name: str = "SAC") -> None:
        self.name = name
        self.train_id = train_id
        self._policy = policy

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """See `Agent.reset`.

        Raises:
            ObservationMismatchError: it was trained on another observation.
        """
        spec.require(self._policy.observation_hash, whose=f"policy {self.train_id}")

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """See `Agent.act`."""
        return self._policy(observation)

    def rehearse(self, observation: Observation) -> None:
        """See `Rehearses.rehearse`: a policy remembers nothing."""
        self._policy(observation)

    def close(self) -> None:
        """Nothing to give back."""


def load_sac_setup(run: TrainingRun) -> AgentSetup:
    """The agent of a training run, with the environment, features, scaler and limits that it was trained with.

    Raises:
        TrainingRunError: a file is missing or damaged, or the files are not of one run.
    """
    metadata = run.metadata()
    scaler = run.scaler()
    resume = f"make it with python -m agents.train --resume {run.train_id}"
    policy = OnnxPolicy(run.require_policy(), source=str(run.policy_path), remedy=resume)
    if policy.observation_hash != metadata.observation_hash:
        raise TrainingRunError(
            f"{run.policy_path} reads observation {policy.observation_hash}, but {run.metadata_path.name} says "
            f"{metadata.observation_hash}: one of them is of another run; {resume}"
        )
    scaler.require_names(feature_names(metadata.features, metadata.symbols))
    return AgentSetup(
        agent=SacAgent(policy, train_id=run.train_id),
        env=metadata.env,
        features=metadata.features,
        scaler=scaler,
        limits=metadata.risk,
        train_id=run.train_id,
    )
