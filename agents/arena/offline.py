"""An arena over past or synthetic candles: one environment and one loop per agent, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from agents.arena.config import Entrant
from agents.arena.standings import Standing, net_return, ranked
from agents.base import KeepsRecords
from agents.run import Ending
from agents.simulate import Simulation, build_env, simulate
from envs.errors import ConfigError
from envs.features import FeatureConfig, FeatureTable, market_features
from envs.futures_env import FuturesEnv
from envs.market import Market

OnProgress = Callable[[str, int, int], None]
"""Told after steps, from any thread: the agent, how many steps are done, how many are planned."""


@dataclass(frozen=True, eq=False)
class ArenaResult:
    """A finished arena.

    Attributes:
        simulations: what each agent did, in the arena's order.
        standings: the leaderboard.
        notices: what the user may not expect.
    """

    simulations: Mapping[str, Simulation]
    standings: tuple[Standing, ...]
    notices: tuple[str, ...]

    @property
    def span_ms(self) -> tuple[int, int]:
        """What the longest of the runs covered, UTC."""
        spans = [one.span_ms for one in self.simulations.values()]
        return min(start for start, _ in spans), max(end for _, end in spans)

    @property
    def stopped(self) -> bool:
        """Whether the user stopped it: then it is no repeat of others."""
        return any(one.ending is Ending.STOPPED for one in self.simulations.values())


def build_arena(
    entrants: Sequence[Entrant],
    market: Market,
    *,
    start: int | None = None,
    end: int | None = None,
) -> dict[str, FuturesEnv]:
    """An environment per agent. All decide first at the close of the same candle: the first that suits everybody.

    Raises:
        InputError: the span is too short for one of them, or the market does not suit it.
    """
    tables: dict[FeatureConfig, FeatureTable] = {}
    for entrant in entrants:
        features = entrant.setup.features
        if features not in tables:
            tables[features] = market_features(market, features)
    first = {one.name: build_env(one.setup, market, start=start, end=end, features=tables[one.setup.features])
             for one in entrants}  # fmt: skip
    latest = max(env.first_index for env in first.values())
    start_ms = int(market.open_time_ms[latest])
    return {
        one.name: first[one.name]
        if first[one.name].first_index == latest
        else build_env(one.setup, market, start=start_ms, end=end, features=tables[one.setup.features])
        for one in entrants
    }


def check_fit(entrants: Sequence[Entrant], envs: Mapping[str, FuturesEnv], seed: int | None) -> None:
    """Ask every agent whether it can read its observation, and every provider whether it has the model.

    Raises:
        InputError: one cannot; the message begins with the agent's name.
    """
    for one in entrants:
        try:
            one.setup.agent.reset(envs[one.name].spec_observation, seed=seed)
        except ConfigError as error:
            raise ConfigError(f"arena agent {one.name}: {error}") from error


def run_arena(
    entrants: Sequence[Entrant],
    envs: Mapping[str, FuturesEnv],
    *,
    seed: int | None = 0,
    folder: Path | None = None,
    stamp: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress | None = None,
) -> ArenaResult:
    """Have all agents play, concurrently; who is slow holds nobody up.

    Args:
        entrants: from `enter`.
        envs: from `build_arena`.
        seed: of the agents.
        folder: each agent's step CSV, emergencies and decisions go into a folder of its name in it; None writes none.
        stamp: in the files' names.
        should_stop: asked between steps, from any thread.
        on_progress: see `OnProgress`.

    Raises:
        Exception: what ended one of the loops, after the others were stopped.
    """
    done: dict[str, Simulation] = {}
    errors: list[BaseException] = []
    failed = threading.Event()

    def play(entrant: Entrant) -> None:
        name = entrant.name
        steps = emergencies = None
        try:
            if folder is not None:
                own = folder / name
                own.mkdir(parents=True, exist_ok=True)
                steps, emergencies = own / f"steps_{stamp}.csv", own / f"emergencies_{stamp}.csv"
                if isinstance(entrant.setup.agent, KeepsRecords):
                    entrant.setup.agent.write_to(own)
            tell = None
            if on_progress is not None:
                heard = on_progress

                def tell(count: int, planned: int) -> None:
                    heard(name, count, planned)

            with closing(entrant.setup.agent):
                done[name] = simulate(
                    entrant.setup,
                    envs[name],
                    seed=seed,
                    steps_path=steps,
                    emergencies_path=emergencies,
                    should_stop=lambda: failed.is_set() or should_stop(),
                    on_step=tell,
                )
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits for all)
            errors.append(error)
            failed.set()

    threads = [threading.Thread(target=play, args=(one,), name=f"arena {one.name}") for one in entrants]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    if errors:
        raise errors[0]
    standings = ranked(standing_of(one, done[one.name]) for one in entrants)
    notices = [one.note for one in entrants if one.note]
    for one in entrants:
        if isinstance(one.setup.agent, KeepsRecords):
            notices += one.setup.agent.notices()
        report = done[one.name].emergency
        if report is not None:
            notices.append(f"{one.name}: the emergency protocol closed its positions: {report.reason}")
    return ArenaResult({one.name: done[one.name] for one in entrants}, standings, tuple(notices))


def standing_of(entrant: Entrant, done: Simulation) -> Standing:
    """An agent's line of the leaderboard, not ranked yet."""
    metrics = done.metrics
    cost, holds = model_record(entrant)
    return Standing(
        rank=0,
        agent=entrant.name,
        played_by=entrant.played_by,
        capital=entrant.capital_usdt,
        equity=metrics.final_equity,
        total_return=metrics.total_return,
        net_return=net_return(entrant.capital_usdt, metrics.final_equity, cost),
        sharpe=metrics.sharpe,
        max_drawdown=metrics.max_drawdown,
        trades=metrics.trades,
        win_rate=metrics.win_rate,
        fees=metrics.fees,
        llm_cost=cost,
        steps=metrics.steps,
        ending=done.ending.value,
        holds=holds,
    )


def model_record(entrant: Entrant) -> tuple[float | None, int]:
    """What a model's decisions cost, in USD, and how many came to nothing; 0 and 0 for other agents."""
    if not entrant.is_llm:
        return 0.0, 0
    from agents.llm.agent import LlmAgent
    from agents.llm.budget import PriceTable

    agent = entrant.setup.agent
    assert isinstance(agent, LlmAgent)
    verdicts = agent.tally.verdicts
    holds = sum(count for verdict, count in verdicts.items() if verdict not in ("accepted", "reduced"))
    price = PriceTable.of(agent.config.prices).price_of(agent.config.provider.model)
    return (None if price is None else agent.tally.usd), holds
