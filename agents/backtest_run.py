"""A backtest: an agent and the benchmarks over the same candles, and the files that say what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.backtest_files import BacktestPaths, iso_time, stamp_of, versions, write_config, write_json
from agents.base import AgentSetup, KeepsRecords
from agents.run import Ending
from agents.simulate import OnStep, Simulation, simulate, simulate_benchmarks
from envs.candles import interval_name
from envs.futures_env import FuturesEnv
from envs.market import Market
from envs.time_grid import format_time


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """A finished backtest.

    Attributes:
        spec: the agent as it was asked for.
        setup: the agent with its environment.
        market: what it traded in.
        simulation: what it did.
        benchmarks: buy-and-hold and flat over the same candles.
        notices: what the user may not expect, one line each.
        paths: the files, when any were written.
        elapsed_s: time that the agent's own run took.
    """

    spec: str
    setup: AgentSetup
    market: Market
    simulation: Simulation
    benchmarks: Mapping[str, Simulation]
    notices: tuple[str, ...] = ()
    paths: BacktestPaths | None = None
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """What the command returns to the shell."""
        match self.simulation.ending:
            case Ending.EMERGENCY:
                return 3
            case Ending.STOPPED:
                return 130
        return 0

    def price_changes(self) -> dict[str, float]:
        """By symbol, last close / first close - 1 over the candles that the benchmarks ran over."""
        flat = self.benchmarks["flat"]
        first, last = (int(row) for row in self.market.close_time_ms.searchsorted(flat.time_ms[[0, -1]]))
        change = self.market.close[last] / self.market.close[first] - 1.0
        return dict(zip(self.market.symbols, change.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The metrics, whose they are and what they stand beside; for JSON."""
        done = self.simulation
        report = done.emergency
        return {
            "agent": self.spec,
            "train_id": self.setup.train_id,
            "symbols": list(done.symbols),
            "interval": interval_name(done.interval_ms),
            "start": iso_time(done.span_ms[0]),
            "end": iso_time(done.span_ms[1]),
            "synthetic": self.market.synthetic,
            **done.metrics.to_dict(),
            "ending": done.ending.value,
            "emergency": None if report is None else report.reason,
            "price_change": self.price_changes(),
            "benchmarks": {name: one.metrics.to_dict() for name, one in self.benchmarks.items()},
            "notices": list(self.notices),
            "paths": None if self.paths is None else self.paths.to_dict(),
        }


def run_backtest(
    spec: str,
    setup: AgentSetup,
    env: FuturesEnv,
    *,
    seed: int | None = 0,
    folder: Path | None = None,
    config: Mapping[str, Any] | None = None,
    report: bool = True,
    notices: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep | None = None,
) -> BacktestResult:
    """Run an agent and the benchmarks, and write the files.

    Args:
        spec: the agent as it was asked for, for the record.
        setup: from `make_agent`.
        env: from `build_env`.
        seed: of the agent.
        folder: where to write; None writes nothing and keeps the rows of the step log in `simulation.records`.
        config: what config.yaml says beside the settings: the sections run, market and agent.
        report: whether to write report.html.
        notices: what the result should say about its input.
        should_stop: asked between steps.
        on_step: told after each step.

    Raises:
        ObservationMismatchError: the agent cannot read this environment's observation.
    """
    stamp = stamp_of(datetime.now(UTC))
    steps = emergencies = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        steps, emergencies = folder / f"steps_{stamp}.csv", folder / f"emergencies_{stamp}.csv"
        if isinstance(setup.agent, KeepsRecords):
            setup.agent.write_to(folder)
    began_s = time.perf_counter()
    done = simulate(
        setup,
        env,
        seed=seed,
        steps_path=steps,
        emergencies_path=emergencies,
        keep_records=folder is None,
        should_stop=should_stop,
        on_step=on_step,
    )
    elapsed_s = time.perf_counter() - began_s
    stopped = done.ending is Ending.STOPPED
    benchmarks = simulate_benchmarks(env, done.metrics.steps if stopped else setup.max_steps)
    own = setup.agent.notices() if isinstance(setup.agent, KeepsRecords) else ()
    said = (*notices, *own, *_notices(done, benchmarks))
    result = BacktestResult(spec, setup, env.market, done, benchmarks, said, None, elapsed_s)
    if folder is None or steps is None:
        return result
    result = replace(
        result,
        paths=BacktestPaths(
            folder=folder,
            steps=steps,
            emergencies=emergencies if done.emergency is not None else None,
            metrics=folder / "metrics.json",
            report=folder / "report.html" if report else None,
            config=folder / "config.yaml",
        ),
    )
    _write(result, config or {}, env.spec_observation.hash)
    return result


def _notices(done: Simulation, benchmarks: Mapping[str, Simulation]) -> list[str]:
    notices = []
    planned = max(len(one.time_ms) for one in benchmarks.values()) - 1
    if done.metrics.steps < planned:
        notices.append(
            f"{done.agent} ended after {done.metrics.steps} of {planned} steps; buy-and-hold and flat ran all of them"
        )
    held = benchmarks["buy-and-hold"]
    if held.metrics.liquidations:
        notices.append(
            f"buy-and-hold was liquidated at {format_time(held.span_ms[1])}: it never rebalances, and funding of "
            f"{held.metrics.funding:,.2f} USDT went through its wallet"
        )
    if not held.trades:
        notices.append(
            "buy-and-hold could not open a position: the capital is below the exchange's minimum order"
        )
    return notices


def _write(result: BacktestResult, config: Mapping[str, Any], observation_hash: str) -> None:
    paths, setup = result.paths, result.setup
    assert paths is not None
    values = {
        **config,
        "env": setup.env.model_dump(mode="json"),
        "features": setup.features.model_dump(mode="json"),
        "risk": setup.limits.model_dump(mode="json"),
        "record": {
            "made_at": iso_time(int(time.time() * 1000)),
            "train_id": setup.train_id,
            "synthetic": result.market.synthetic,
            "data_hash": result.market.data_hash(),
            "observation_hash": observation_hash,
            "versions": versions(),
        },
    }
    write_config(paths.config, values)
    write_json(paths.metrics, result.to_dict())
    if paths.report is not None:
        # Imported here: a backtest without a report has no need of it.
        from agents.report import write_report

        write_report(paths.report, result, values)
