"""A SAC training from its settings to a finished training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.metrics import Metrics
from agents.sac.algorithm import DivergedError, Timing, TradingSac
from agents.sac.callback import Reporter, TrainingCallback, TrainingState
from agents.sac.config import TrainConfig, overridden
from agents.sac.dataset import TEST, TRAIN, VALIDATION, Dataset, prepare
from agents.sac.export import actor_to_onnx
from agents.sac.model import build_model, restore_model, save_model, tensorboard_logger, torch_settings
from agents.sac.policy import load_sac_setup
from agents.sac.provenance import describe, git_commit, versions
from agents.sac.replay import IndexReplayBuffer
from agents.sac.vec import FuturesVecEnv
from agents.simulate import simulate, simulate_benchmarks
from agents.training_run import TrainingRun
from envs.errors import ConfigError, TrainingRunError

Evaluation = Mapping[str, Mapping[str, Metrics]]
"""Figures by span, then by agent: the policy, buy-and-hold and flat."""

AGENT = "agent"


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        run: its folder.
        evaluation: of the best policy.
        interrupted: whether it was stopped early.
        state: how far it came.
    """

    run: TrainingRun
    evaluation: Evaluation
    interrupted: bool
    state: TrainingState


def resolved_reward_scale(config: TrainConfig, dataset: Dataset) -> float:
    """The factor on the reward: as configured, or one over its standard deviation at full exposure."""
    scale = config.sac.reward_scale
    if scale != "auto":
        return scale
    if config.env.reward.reward == "differential_sharpe":
        return 1.0
    rows = dataset.rows[TRAIN]
    returns = np.diff(np.log(dataset.market.close[rows.first : rows.last]), axis=0)
    spread = float(np.mean(np.std(returns, axis=0))) * config.env.max_leverage
    # Three digits: the factor is for the eye too.
    return float(f"{1.0 / spread:.3g}") if spread > 0 else 1.0


def start_training(
    config: TrainConfig, *, root: Path, reporter: Reporter, should_stop: Callable[[], bool]
) -> Outcome:
    """Train from scratch and write a new run under `root`.

    Raises:
        InputError: settings or data cannot be used; nothing was written.
        DivergedError: the losses are no longer finite; the run is left as of the last validation.
    """
    dataset = prepare(config, notice=reporter.notice)
    scale = resolved_reward_scale(config, dataset)
    with torch_settings(config.sac.torch_threads):
        model = build_model(config.sac, _training_env(config, dataset, scale))
        run = TrainingRun.create(
            root,
            symbols=dataset.market.symbols,
            start_ms=dataset.start_ms,
            end_ms=dataset.end_ms,
            learning_rate=config.sac.learning_rate,
            batch_size=config.sac.batch_size,
            window_size=config.env.window_size,
        )
        dataset.scaler.save(run.scaler_path)
        metadata = describe(config, dataset, scale)
        return _train(run, config, dataset, model, TrainingState(), metadata, reporter, should_stop)


def resume_training(
    run: TrainingRun, overrides: Mapping[str, Any], *, reporter: Reporter, should_stop: Callable[[], bool]
) -> Outcome:
    """Continue a run in its own folder, up to its timesteps; or finish what is missing of one that is there already.

    It goes on from the last checkpoint, bit for bit as if it had not stopped there. Where replay.npz is missing or of
    another moment the policy refills the replay buffer before the first gradient step.

    Args:
        run: the run.
        overrides: settings by dotted name. Only the timesteps, the place of the data and the device may change.
        reporter: told how it goes.
        should_stop: asked at every step.

    Raises:
        InputError: the run or its data cannot be used, or a setting would make it another run.
    """
    metadata = run.metadata()
    config = stored_config(run, overrides)
    stored_hash, scale = _stored_facts(run)
    dataset = prepare(config, notice=reporter.notice)
    if dataset.market.data_hash() != stored_hash:
        raise TrainingRunError(
            f"{run.train_id} was trained on other data (hash {stored_hash[:12]}, these have "
            f"{dataset.market.data_hash()[:12]}); give the same files, or train anew"
        )
    if run.scaler_path.exists():
        _require_same_scaler(run, dataset)
    else:
        dataset.scaler.save(run.scaler_path)
    checkpoint, values = run.require_checkpoint()
    state = _state(run, values)
    with torch_settings(config.sac.torch_threads):
        model = build_model(config.sac, _training_env(config, dataset, scale))
        restore_model(model, checkpoint)
        model.num_timesteps, model._n_updates = state.timesteps, state.updates
        if state.timesteps < config.sac.timesteps:
            _restore_replay(run, config, model, reporter)
        described = {
            **{key: value for key, value in metadata.values.items() if key not in ("schema", "train_id")},
            **config.model_dump(mode="json"),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        return _train(run, config, dataset, model, state, described, reporter, should_stop)


def _training_env(config: TrainConfig, dataset: Dataset, reward_scale: float) -> FuturesVecEnv:
    env = dataset.vector_environment(
        TRAIN,
        config,
        config.sac.n_envs,
        random_start=True,
        episode_candles=config.sac.episode_candles,
        # A step of all of them is microseconds: other threads would only be in torch's way.
        threads=1,
    )
    return FuturesVecEnv(env, reward_scale=reward_scale)


def _restore_replay(run: TrainingRun, config: TrainConfig, model: TradingSac, reporter: Reporter) -> None:
    assert isinstance(model.replay_buffer, IndexReplayBuffer)
    if run.replay_path.exists():
        if model.replay_buffer.load(run.replay_path, timesteps=model.num_timesteps):
            return
        reporter.notice(f"{run.replay_path.name} is of another moment: the policy refills it first")
    else:
        reporter.notice(f"{run.replay_path.name} is missing: the policy refills it first")
    model.refilling = True
    model.learning_starts = model.num_timesteps + max(config.sac.learning_starts, config.sac.batch_size)


_RESUMABLE = ("sac.timesteps", "sac.device", "data.candles", "data.funding", "data.marks")


def stored_config(run: TrainingRun, overrides: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run, with those that a resumed training may change.

    Raises:
        ConfigError: an override would make it another run.
    """
    values = run.metadata().values
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if value is None or name in _RESUMABLE or values.get(section, {}).get(key) == value:
            continue
        raise ConfigError(
            f"{name} = {value} cannot be changed by --resume (it is {values.get(section, {}).get(key)} in "
            f"{run.train_id}); train anew, or leave it out"
        )
    sections = {name: values[name] for name in TrainConfig.model_fields if name in values}
    return TrainConfig.parse(overridden(sections, overrides), where=str(run.metadata_path))


def _train(
    run: TrainingRun,
    config: TrainConfig,
    dataset: Dataset,
    model: TradingSac,
    state: TrainingState,
    metadata: dict[str, Any],
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> Outcome:
    run.write_metadata({**metadata, "interrupted": False, "status": "training"})
    model.timing = state.timing
    callback = TrainingCallback(
        run,
        dataset.environment(VALIDATION, config),
        state,
        settings=config.evaluation,
        total=config.sac.timesteps,
        reporter=reporter,
        should_stop=should_stop,
    )
    callback.init_callback(model)
    if config.sac.learning_starts >= config.sac.timesteps:
        reporter.notice(
            f"sac.learning_starts is {config.sac.learning_starts}, and sac.timesteps {config.sac.timesteps}: the "
            "policy stays as random as it begins"
        )
    reporter.started(dataset)
    if state.timesteps < config.sac.timesteps:
        try:
            _learn(run, model, callback, state, config, should_stop)
        except DivergedError:
            run.write_metadata({**metadata, "interrupted": True, "status": "diverged"})
            raise
    interrupted = should_stop() and model.num_timesteps < config.sac.timesteps
    _export(run, dataset, config, model)
    reporter.evaluating()
    evaluation = evaluate(run, config, dataset)
    status = "interrupted" if interrupted else "finished"
    training = {"device": str(model.device), **state.timing.figures()}
    run.write_evaluation(
        {
            "train_id": run.train_id,
            "timesteps": state.timesteps,
            "training": training,
            "best": state.best,
            "spans": metadata["spans"],
            **{
                span: {name: metrics.to_dict() for name, metrics in figures.items()}
                for span, figures in evaluation.items()
            },
        }
    )
    run.write_metadata({**metadata, "training": training, "interrupted": interrupted, "status": status})
    return Outcome(run, evaluation, interrupted, state)


def _learn(
    run: TrainingRun,
    model: TradingSac,
    callback: TrainingCallback,
    state: TrainingState,
    config: TrainConfig,
    should_stop: Callable[[], bool],
) -> None:
    total, every = config.sac.timesteps, config.evaluation.every_steps
    # Now and then: an entry per episode would cost more than the episodes.
    log_interval = max(4, config.sac.n_envs)
    logger = tensorboard_logger(run.tensorboard_path)
    model.set_logger(logger)
    try:
        while model.num_timesteps < total and not should_stop():
            # From one validation to the next, so that a resumed training repeats the draws of one that never stopped.
            goal = min((model.num_timesteps // every + 1) * every, total)
            model.begin_leg()
            model.learn(
                goal - model.num_timesteps,
                callback=callback,
                reset_num_timesteps=False,
                log_interval=log_interval,
            )
            if model.num_timesteps >= goal:
                callback.validate()
        if state.best is None:
            # It was stopped before its first validation.
            callback.validate()
        elif state.timesteps != model.num_timesteps:
            callback.checkpoint()
    finally:
        logger.close()


def _export(run: TrainingRun, dataset: Dataset, config: TrainConfig, model: TradingSac) -> None:
    """policy.onnx of the best model, where it is missing or not the best model's."""
    best = build_model(
        config.sac.model_copy(update={"buffer_size": config.sac.batch_size, "device": "cpu"}),
        FuturesVecEnv(dataset.vector_environment(VALIDATION, config, 1)),
    )
    if not run.model_path.exists():
        # Lost since: the latest is the best that there is.
        save_model(model, run.model_path)
    restore_model(best, run.require_model())
    run.write_policy(actor_to_onnx(best, dataset.environment(VALIDATION, config).spec_observation.hash))


def evaluate(run: TrainingRun, config: TrainConfig, dataset: Dataset) -> Evaluation:
    """The policy as it will run, risk limits included, on validation and test, beside buy-and-hold and flat."""
    setup = load_sac_setup(run)
    evaluation: dict[str, dict[str, Metrics]] = {}
    for span in (VALIDATION, TEST):
        env = dataset.environment(span, config, agent=setup.agent.name)
        figures = {AGENT: simulate(setup, env, seed=config.sac.seed).metrics}
        benchmarks = simulate_benchmarks(env, None)
        evaluation[span] = figures | {name: one.metrics for name, one in benchmarks.items()}
    return evaluation


def _require_same_scaler(run: TrainingRun, dataset: Dataset) -> None:
    stored = run.scaler()
    stored.require_names(dataset.scaler.names)
    same = np.allclose(stored.centre, dataset.scaler.centre, rtol=1e-9, atol=1e-12) and np.allclose(
        stored.scale, dataset.scaler.scale, rtol=1e-9, atol=1e-12
    )
    if not same:
        raise TrainingRunError(
            f"{run.scaler_path} is not the scaler of this run's training span; delete it, and --resume fits it anew"
        )


def _stored_facts(run: TrainingRun) -> tuple[str, float]:
    """Hash of the data, and reward scale."""
    values = run.metadata().values
    try:
        return str(values["market"]["hash"]), float(values["reward_scale"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingRunError(
            f"{run.metadata_path} is damaged ({error!r}); train again with python -m agents.train"
        ) from error


def _state(run: TrainingRun, values: Mapping[str, Any]) -> TrainingState:
    try:
        return TrainingState(
            timesteps=int(values["timesteps"]),
            updates=int(values["updates"]),
            best=None if values["best"] is None else dict(values["best"]),
            validations=[dict(one) for one in values["validations"]],
            timing=Timing(**values.get("timing", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingRunError(
            f"{run.state_path} is damaged ({error!r}); train again with python -m agents.train"
        ) from error
