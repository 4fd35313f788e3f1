"""What a live run of one agent and a live arena have in common: account, environment, signals, the question first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from agents.base import AgentSetup
from envs.account import ZERO
from envs.candles import interval_name
from envs.errors import ConfigError
from envs.features import feature_names
from envs.observation import observation_spec
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.candle_feed import RequestCandle
from live.env import LiveEnv
from live.exchange.base import Exchange
from live.exchange.binance import BinanceExchange
from live.exchange.client_ids import check_agent_name
from live.rehearsal import ClosesIn, deciding
from live.run_memory import RunMemory
from live.venues import VenueSession

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Stack:
    """An agent's environment on its account, with its risk control and its step log.

    Attributes:
        env: the environment.
        risk: around it.
        log: around that; what the agent trades through.
        paths: of its files.
        first_step: number of the next step of the log.
    """

    env: LiveEnv
    risk: RiskControl
    log: StepLog
    paths: dict[str, Path]
    first_step: int


def open_stack(
    exchange: Exchange,
    bridge: LoopThread,
    setup: AgentSetup,
    memory: RunMemory,
    *,
    symbols: tuple[str, ...],
    interval_ms: int,
    account_id: str,
    about: Mapping[str, Any],
    request_candle: RequestCandle | None,
    closes_in_s: ClosesIn | None = None,
    log_type: type[StepLog] = StepLog,
) -> Stack:
    """Set the leverages, read what earlier sessions left, note that one begins, and build an agent's environment.

    Args:
        exchange: the agent's account, connected.
        bridge: the loop that it lives in.
        setup: the agent, by its name in client order ids.
        memory: of its folder.
        symbols, interval_ms: what it plays.
        account_id: the exchange's own name of the account.
        about: more for the session's file.
        request_candle: in lock-step; None where the market moves by itself.
        closes_in_s: the exchange's clock, where steps are to be rehearsed.
        log_type: of the step log.

    Raises:
        PerpgymError: the account cannot be read or is another one, or a file is damaged.
    """
    agent = setup.agent.name
    loaded = bridge.call(exchange.instruments(symbols))
    instruments = tuple(loaded[symbol] for symbol in symbols)
    for instrument in instruments:
        bridge.call(exchange.set_leverage(instrument.symbol, setup.env.leverage_setting(instrument)))
    remembered = memory.recall(account_id, symbols)
    paths = memory.begin_session(
        {
            "account_id": account_id,
            "agent": agent,
            "train_id": setup.train_id,
            "symbols": list(symbols),
            "interval": interval_name(interval_ms),
            "begun_at_ms": exchange.now_ms(),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **about,
        }
    )
    env = LiveEnv(
        exchange,
        bridge,
        interval_ms=interval_ms,
        config=setup.env,
        features=setup.features,
        scaler=setup.scaler,
        instruments=instruments,
        agent=agent,
        resume=remembered.resume,
        request_candle=request_candle,
        on_transfers=memory.note_transfers,
        on_intents=memory.save_intents,
        closes_in_s=closes_in_s,
    )
    risk = RiskControl(env, setup.limits, store=memory.store, sleep=time.sleep)
    env.rehearse_with(deciding(setup.agent), risk.rehearse)
    state = remembered.state
    log = log_type(
        risk,
        agent=agent,
        path=paths["steps"],
        emergencies_path=paths["emergencies"],
        keep_records=True,
        initial_equity_usdt=state.initial_equity_usdt if state else None,
        peak_equity_usdt=state.peak_equity_usdt if state else None,
        max_drawdown_fraction=state.max_drawdown_fraction if state else ZERO,
        first_step=remembered.logged.next_step,
    )
    return Stack(env, risk, log, paths, remembered.logged.next_step)


def check_agent(setup: AgentSetup, symbols: tuple[str, ...], interval_ms: int, seed: int | None) -> None:
    """An agent says now, and not in the middle of a market, that it cannot read what it will be shown.

    Raises:
        ConfigError: its name does not fit into client order ids, or it was trained on something else.
    """
    check_agent_name(setup.agent.name, symbols)
    names = feature_names(setup.features, symbols)
    setup.agent.reset(observation_spec(symbols, interval_ms, names, setup.env), seed=seed)


def account_name(session: VenueSession, account_id: str) -> str:
    """The account's name in a database: two accounts never share one, one keeps its own."""
    if session.fresh:
        return f"{session.account_key}-{datetime.now(UTC):%Y%m%d_%H%M%S_%f}"
    return f"{session.venue.name}-{account_id}" if account_id else session.account_key


async def close_exchange(exchange: Exchange, session: VenueSession) -> None:
    """Close a connection, and the lock-step beside it."""
    await exchange.close()
    if session.lock_step is not None:
        await session.lock_step.close()


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl+C or SIGTERM call `stop`, and the second raise a KeyboardInterrupt."""
    stopping = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            raise KeyboardInterrupt
        stopping = True
        name = signal.Signals(number).name
        # Not through the console: the signal may have come while it writes.
        os.write(2, f"stopping after this step ({name}); again to stop at once\n".encode())
        stop()

    before = {number: signal.signal(number, on_signal) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def confirm_real_money(
    session: VenueSession, bridge: LoopThread, about: str, confirm: Callable[[str], bool]
) -> None:
    """Check the key and ask, over a connection that changes nothing at the exchange.

    Raises:
        ConfigError: the answer was no.
        ExchangeError: the key may withdraw, or the account cannot be read.
    """
    exchange = BinanceExchange(session.venue, session.credentials, ())
    try:
        bridge.call(exchange.connect())
        bridge.call(exchange.check_withdrawals_disabled())
        account = bridge.call(exchange.account())
    finally:
        bridge.call(exchange.close())
    if not confirm(f"This trades REAL MONEY: {account.wallet_usdt:.2f} USDT{about}"):
        raise ConfigError("not confirmed: no order was sent; give --yes to skip the question")
