"""Training: the same seed gives the same run, a resumed one goes on, and the spans do not touch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from agents.sac.algorithm import Timing
from agents.sac.callback import TrainingState
from agents.sac.config import SplitConfig, TrainConfig
from agents.sac.dataset import prepare, split_rows
from agents.sac.report import QuietReporter, timing_line
from agents.sac.trainer import Outcome, _state, resolved_reward_scale, resume_training, start_training
from agents.training_run import TrainingRun
from envs.errors import CandleError, ConfigError, TrainingRunError
from envs.futures_env import FuturesEnv
from envs.synthetic import synthetic_market

Settings = Callable[..., dict[str, Any]]


def copied(outcome: Outcome, root: Path) -> TrainingRun:
    return TrainingRun(Path(shutil.copytree(outcome.run.folder, root / outcome.run.train_id)))


def evaluation_of(run: TrainingRun) -> dict[str, Any]:
    """Without its name and the time that it took."""
    return {key: value for key, value in run.evaluation().items() if key not in ("train_id", "training")}


def resume(run: TrainingRun, **overrides: Any) -> Outcome:
    return resume_training(run, overrides, reporter=QuietReporter(), should_stop=lambda: False)


def test_the_environment_passes_both_checkers() -> None:
    env = FuturesEnv(synthetic_market(n=300), random_start=True, episode_candles=50)
    check_gymnasium_env(env, skip_render_check=True)
    check_sb3_env(env)


def test_the_run_folder_holds_everything(outcome: Outcome) -> None:
    run = outcome.run
    assert not outcome.interrupted
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "config_metadata.yaml",
        "scaler_train.json",
        "policy.onnx",
        "model.zip",
        "checkpoint.zip",
        "replay.npz",
        "training_state.json",
        "evaluation.json",
        "tensorboard",
    }
    assert list(run.tensorboard_path.glob("events.out.tfevents.*"))
    values = yaml.safe_load(run.metadata_path.read_text())
    assert values["window_size"] == 5
    assert values["max_drawdown"] == 0.6
    assert values["hold_threshold"] is None  # only a signal scheme has one
    assert values["normalize_portfolio"] is True
    assert values["features"]["indicators"][1] == {"name": "rsi", "period": 5}
    assert values["sac"]["net_arch"] == [16, 16] and values["sac"]["tau"] == 0.005
    assert values["status"] == "finished" and values["interrupted"] is False
    assert len(values["market"]["hash"]) == 64 and values["market"]["synthetic"] is True
    assert {"torch", "stable-baselines3", "numpy", "onnxruntime", "python"} <= set(values["versions"])
    spans = values["spans"]
    assert spans["train"]["end_ms"] == spans["validation"]["start_ms"]
    assert spans["validation"]["end"] == spans["test"]["start"]
    assert run.metadata().observation_hash == values["observation_hash"]
    # 600 candles; 4 rows of warm-up (rsi_5 needs 5) and a window of 5.
    assert sum(span["candles"] for span in spans.values()) == 600 - 5 - 4


def test_validations_keep_the_best(outcome: Outcome) -> None:
    state = outcome.state
    assert [one["timesteps"] for one in state.validations] == [100, 200, 300]
    assert state.best is not None
    assert state.best["score"] == max(one["score"] for one in state.validations)
    assert state.timesteps == 300
    assert all(one["steps"] == len_of(outcome, "validation") - 1 for one in state.validations)


def len_of(outcome: Outcome, span: str) -> int:
    return int(outcome.run.metadata().values["spans"][span]["candles"])


def test_evaluation_stands_beside_buy_and_hold_and_flat(outcome: Outcome) -> None:
    values = json.loads(outcome.run.evaluation_path.read_text())
    for span in ("validation", "test"):
        assert set(values[span]) == {"agent", "buy-and-hold", "flat"}
        assert values[span]["flat"]["total_return"] == 0.0
        assert values[span]["agent"]["steps"] == len_of(outcome, span) - 1
        assert values[span]["agent"]["trades"] > 0  # it trades


def test_the_same_seed_gives_the_same_run(
    outcome: Outcome, train: Callable[..., Outcome], tmp_path: Path
) -> None:
    again = train(tmp_path)
    assert again.run.policy_path.read_bytes() == outcome.run.policy_path.read_bytes()
    assert evaluation_of(again.run) == evaluation_of(outcome.run)
    assert again.state.validations == outcome.state.validations
    other = train(tmp_path, seed=6)
    assert other.run.policy_path.read_bytes() != outcome.run.policy_path.read_bytes()


def test_a_resumed_training_goes_on_from_where_it_was(
    outcome: Outcome, train: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = copied(outcome, tmp_path)
    went_on = resume(run, **{"sac.timesteps": 452})
    assert went_on.state.timesteps == 452
    assert [one["timesteps"] for one in went_on.state.validations] == [100, 200, 300, 400, 452]
    assert went_on.state.validations[:3] == outcome.state.validations
    # A gradient step per transition, but for the random ones.
    assert outcome.state.updates == 300 - 64 and went_on.state.updates == 452 - 64
    assert run.metadata().values["sac"]["timesteps"] == 452
    timing = went_on.state.timing
    assert (timing.env_steps, timing.gradient_steps) == (452, 452 - 64)
    # The same as one that never stopped, to the last bit of policy, replay and figures.
    straight = train(tmp_path, timesteps=452)
    assert straight.state.validations == went_on.state.validations
    assert straight.run.policy_path.read_bytes() == run.policy_path.read_bytes()
    assert straight.run.replay_path.read_bytes() == run.replay_path.read_bytes()
    assert evaluation_of(straight.run) == evaluation_of(run)


def test_a_lost_replay_buffer_is_refilled_by_the_policy(outcome: Outcome, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(QuietReporter):
        def notice(self, message: str) -> None:
            said.append(message)

    for name, expected in (("missing", "is missing"), ("older", "of another moment")):
        run = copied(outcome, tmp_path / name)
        if name == "missing":
            run.replay_path.unlink()
        else:
            kept = dict(np.load(run.replay_path))
            np.savez(run.replay_path, **{**kept, "timesteps": np.int64(200)})
        said.clear()
        done = resume_training(run, {"sac.timesteps": 452}, reporter=Listening(), should_stop=lambda: False)
        assert any(expected in message and "refills it first" in message for message in said)
        assert done.state.updates == outcome.state.updates + 152 - 64
    run.replay_path.write_bytes(b"no zip")
    with pytest.raises(TrainingRunError, match=r"replay\.npz is damaged.*delete it"):
        resume(run, **{"sac.timesteps": 600})


def test_a_training_says_where_its_time_went(outcome: Outcome) -> None:
    training = outcome.run.evaluation()["training"]
    assert training["device"] == "cpu"
    assert (training["env_steps"], training["gradient_steps"]) == (300, 300 - 64)
    assert training["env_share"] + training["replay_share"] + training["gradient_share"] == pytest.approx(
        1.0, abs=2e-4
    )
    assert training["gradient_share"] > 0.5
    assert training["env_steps_per_s"] == pytest.approx(300 / training["wall_s"], rel=0.05)
    assert training["gradient_steps_per_s"] > 0
    assert outcome.run.metadata().values["training"] == training
    assert "of the time in gradient steps" in timing_line(outcome.state.timing)
    assert timing_line(Timing()) == ""


def test_resuming_a_finished_run_makes_what_is_missing(outcome: Outcome, tmp_path: Path) -> None:
    run = copied(outcome, tmp_path)
    for path in (run.policy_path, run.evaluation_path, run.scaler_path):
        path.unlink()
    resume(run)
    for name in ("policy.onnx", "scaler_train.json", "evaluation.json"):
        assert (run.folder / name).read_bytes() == (outcome.run.folder / name).read_bytes()


def test_resume_refuses_what_would_be_another_run(outcome: Outcome, tmp_path: Path) -> None:
    run = copied(outcome, tmp_path)
    with pytest.raises(ConfigError, match="cannot be changed by --resume"):
        resume(run, **{"sac.learning_rate": 0.001})
    resume(run, **{"sac.learning_rate": 3e-4})  # the same: nothing changes
    text = run.metadata_path.read_text()
    run.metadata_path.write_text(text.replace("signal_strength: 0.4", "signal_strength: 0.3"))
    with pytest.raises(TrainingRunError, match="was trained on other data"):
        resume(run)
    run.metadata_path.write_text(text)
    scaler = json.loads(run.scaler_path.read_text())
    scaler["features"][0]["scale"] *= 2
    run.scaler_path.write_text(json.dumps(scaler))
    with pytest.raises(TrainingRunError, match="is not the scaler of this run"):
        resume(run)


@pytest.mark.parametrize("damage", [b"", b"no zip", "cut"])
def test_a_damaged_checkpoint_is_named(outcome: Outcome, tmp_path: Path, damage: bytes | str) -> None:
    run = copied(outcome, tmp_path)
    whole = run.checkpoint_path.read_bytes()
    run.checkpoint_path.write_bytes(whole[: len(whole) // 2] if isinstance(damage, str) else damage)
    with pytest.raises(
        TrainingRunError, match=r"checkpoint\.zip is (damaged|empty).*python -m agents\.train"
    ):
        resume(run, **{"sac.timesteps": 400})


def test_a_damaged_training_state_is_named(outcome: Outcome, tmp_path: Path) -> None:
    run = copied(outcome, tmp_path)
    for text, message in (("{", "is damaged"), ("[]", "no JSON object"), ("{}", "is damaged")):
        run.state_path.write_text(text)
        with pytest.raises(TrainingRunError, match=rf"training_state\.json {message}|{message}"):
            resume(run)
    run.state_path.unlink()
    with pytest.raises(TrainingRunError, match=r"training_state\.json is missing"):
        resume(run)


def test_stopping_early_leaves_a_usable_run(settings: Settings, tmp_path: Path) -> None:
    asked = [0]

    def should_stop() -> bool:
        asked[0] += 1
        return asked[0] > 37  # asked once per candle of all environments, and once per leg

    config = TrainConfig.parse(settings())
    stopped = start_training(config, root=tmp_path, reporter=QuietReporter(), should_stop=should_stop)
    assert stopped.interrupted
    assert stopped.run.metadata().interrupted
    assert stopped.run.metadata().values["status"] == "interrupted"
    assert 100 < stopped.state.timesteps < 200
    assert [one["timesteps"] for one in stopped.state.validations] == [100]
    assert set(stopped.evaluation["test"]) == {"agent", "buy-and-hold", "flat"}
    # It goes on to the end, and is no longer interrupted.
    went_on = resume(stopped.run)
    assert went_on.state.timesteps == 300 and not went_on.interrupted
    assert not stopped.run.metadata().interrupted


def test_stopping_before_the_first_validation_leaves_a_usable_run(settings: Settings, tmp_path: Path) -> None:
    config = TrainConfig.parse(settings())
    stopped = start_training(config, root=tmp_path, reporter=QuietReporter(), should_stop=lambda: True)
    assert stopped.interrupted and stopped.state.best is not None
    assert stopped.run.policy_path.exists() and stopped.run.evaluation_path.exists()


def test_the_spans_share_no_row_and_the_scaler_sees_the_first_only(settings: Settings) -> None:
    config = TrainConfig.parse(settings())
    dataset = prepare(config, notice=lambda _: None)
    train, validation, test = (dataset.rows[name] for name in ("train", "validation", "test"))
    assert train.first == dataset.table.warmup + 5 - 1
    assert (train.last, validation.last, test.last) == (validation.first, test.first, 600)
    assert (len(validation), len(test)) == (int(591 * 0.15), int(591 * 0.15))
    values = dataset.table.values[train.first : train.last]
    assert dataset.scaler.centre == pytest.approx(values.mean(axis=0))
    assert dataset.scaler.scale == pytest.approx(values.std(axis=0))
    # The training environment never plays a candle of the validation span.
    env = dataset.environment("train", config)
    assert (env.first_index, env.last_index) == (train.first, train.last - 1)


def test_splitting_by_dates_and_its_errors() -> None:
    market = synthetic_market(n=240, start="2023-01-01")
    split = SplitConfig.parse({"validation_start": "2023-01-05", "test_start": "2023-01-08"})
    rows = split_rows(market, split, 30, 240)
    assert [(one.first, one.last) for one in rows.values()] == [(30, 96), (96, 168), (168, 240)]
    with pytest.raises(ConfigError, match="must come in this order"):
        split_rows(market, SplitConfig(validation_start="2023-01-08", test_start="2023-01-05"), 30, 240)
    with pytest.raises(ConfigError, match="must come in this order"):
        split_rows(market, split, 100, 240)
    with pytest.raises(CandleError, match="8 candles are left after the warm-up"):
        split_rows(market, SplitConfig(), 232, 240)
    with pytest.raises(ConfigError, match="give both"):
        SplitConfig.parse({"test_start": "2023-01-05"})
    with pytest.raises(ConfigError, match="nothing to train on"):
        SplitConfig.parse({"validation_fraction": 0.5, "test_fraction": 0.5})


def test_the_automatic_reward_scale_makes_returns_about_one(settings: Settings) -> None:
    config = TrainConfig.parse(settings())
    dataset = prepare(config, notice=lambda _: None)
    rows = dataset.rows["train"]
    spread = np.std(np.diff(np.log(dataset.market.close[rows.first : rows.last, 0])))
    assert resolved_reward_scale(config, dataset) == pytest.approx(1 / spread, rel=0.005)
    fixed = TrainConfig.parse(settings(reward_scale=7.0))
    assert resolved_reward_scale(fixed, dataset) == 7.0


def test_a_training_that_diverges_says_so(settings: Settings, tmp_path: Path) -> None:
    # Rewards of 1e38 make the critic's squared error infinite in float32.
    config = TrainConfig.parse(settings(reward_scale=1e38))
    with pytest.raises(Exception, match="diverged") as caught:
        start_training(config, root=tmp_path, reporter=QuietReporter(), should_stop=lambda: False)
    assert "lower sac.learning_rate" in str(caught.value)
    run = TrainingRun.open(TrainingRun.list_ids(tmp_path)[0], tmp_path)
    assert run.metadata().values["status"] == "diverged"


def test_a_signal_scheme_and_two_symbols_train_too(settings: Settings, tmp_path: Path) -> None:
    values = settings(timesteps=120)
    values["data"]["synthetic"]["symbols"] = ["BTCUSDT", "ETHUSDT"]
    values["env"]["action"] = {"scheme": "signal", "hold_threshold": 0.2, "signal_fraction": 0.4}
    config = TrainConfig.parse(values)
    done = start_training(config, root=tmp_path, reporter=QuietReporter(), should_stop=lambda: False)
    metadata = done.run.metadata()
    assert done.run.train_id.startswith("train_BTCUSDT-ETHUSDT_20230101_20230126_lr3e-4_bs32_ws5_")
    assert metadata.symbols == ("BTCUSDT", "ETHUSDT")
    assert metadata.values["hold_threshold"] == 0.2


def test_the_state_reads_back() -> None:
    state = TrainingState(
        timesteps=3,
        updates=2,
        best={"score": 1.0},
        validations=[{"score": 1.0}],
        timing=Timing(1.0, 2.0, 3.0, 4, 5),
    )
    assert _state(TrainingRun(Path("nowhere")), state.to_dict()) == state
