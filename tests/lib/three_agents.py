"""Agents that trade at random on one shared account, each in a thread of its own; also as processes, to be killed.

`python tests/lib/three_agents.py` imports everything once, then forks a process for every line of its input (a
`Session` as JSON), which it answers with the process's id and, at its end, with its exit code.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from envs.errors import ExchangeError, MarketDataError
from envs.features import FeatureConfig
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.time_grid import MINUTE_MS
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.env import LiveEnv
from live.exchange.base import RetryPolicy
from live.exchange.binance import BinanceExchange
from live.exchange.sockets import StreamSettings
from live.ledger import Ledger
from live.settings import Credentials, paper_venue
from live.subaccount import SharedAccount, SharedAccountSettings
from live.sync import TradeSync, TradeSyncSettings
from live.venues import LockStep

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT")
INTERVAL_MS = 60 * MINUTE_MS
CAPITAL = {"calm": Decimal(3000), "wild": Decimal(2500), "LLM-A": Decimal(2000)}


@dataclass(frozen=True)
class Style:
    """How an agent trades. Every candle it draws new targets for a share `churn` of the contracts, or, `all_in`, with
    that chance one contract for all of its money."""

    leverage: float
    churn: float
    size: float
    rebalance_band: float
    stop_loss_fraction: float = 0.0
    take_profit_fraction: float = 0.0
    exchange_leverage: int | None = None
    all_in: bool = False

    def draw(self, targets: Any, dice: np.random.Generator) -> Any:
        """The next targets."""
        new = targets.copy()
        if self.all_in:
            if dice.random() < self.churn:
                new[:] = 0.0
                new[dice.integers(len(SYMBOLS))] = dice.choice((-1, 1)) * dice.uniform(0.6, self.size)
            return new
        drawn = dice.random(len(SYMBOLS)) < self.churn
        wanted = dice.uniform(-self.size, self.size, len(SYMBOLS)) * dice.integers(0, 3, len(SYMBOLS)).clip(
            0, 1
        )
        new[drawn] = wanted[drawn]
        return new


# Stop and take-profit are so near that a candle often reaches both. An hour's move is more than 1 %, so that who is
# all in at 40 times its money without a stop is liquidated before long.
STYLES = {
    "calm": Style(8.0, 0.3, 0.15, 0.1, 0.01, 0.012),
    "LLM-A": Style(8.0, 0.3, 0.5, 0.3, 0.01, 0.012),
    "wild": Style(40.0, 0.25, 1.0, 15.0, exchange_leverage=50, all_in=True),
}


@dataclass(frozen=True)
class Session:
    """What a process does: so many candles, with the agents' capital as it is now. `looks` gets a line per candle."""

    url: str
    database: str
    seed: int
    candles: int
    capital: Mapping[str, str]
    log: str
    looks: str


def settings_for(capital: Mapping[str, Any]) -> SharedAccountSettings:
    """The account's settings."""
    return SharedAccountSettings.parse(
        {
            "agents": {name: {"capital_usdt": amount} for name, amount in capital.items()},
            "symbols": SYMBOLS,
            "watch_s": 1.0,
            "close_delay_s": 0.02,
        }
    )


_FEATURES = FeatureConfig.model_validate({"indicators": [{"name": "high_low_range"}]})
_TRIES = 40
_RESTARTS = 3
"""So often an agent begins again at one candle: what the exchange refuses now, it may take at the next."""


class ViolationError(AssertionError):
    """The ledger and the exchange differ."""


class Together:
    """Has the next candle played once every agent has asked for it, after looking at the books."""

    def __init__(
        self, account: SharedAccount, lock_step: LockStep, agents: int, until: int, looks: Path
    ) -> None:
        self._account = account
        self._looks = looks
        self._lock_step = lock_step
        self._agents = agents
        self._left = until
        self._waiting: list[asyncio.Future[bool | None]] = []
        self.checks = 0

    async def request(self) -> bool | None:
        """See `live.candle_feed.RequestCandle`."""
        future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await self._play_if_all()
        return await future

    async def leave(self) -> None:
        """One agent asks no more."""
        self._agents -= 1
        await self._play_if_all()

    async def _play_if_all(self) -> None:
        if not self._waiting or len(self._waiting) < self._agents:
            return
        waiting, self._waiting = self._waiting, []
        try:
            await look(self._account)
            self.checks += 1
            with self._looks.open("a") as file:
                file.write(f"{opposite(self._account)}\n")
            answer = await self._lock_step.request_candle() if self._left else None
            self._left -= 1 if self._left else 0
            more = bool(answer) and self._left > 0 if answer is not None else None
        except BaseException as error:  # noqa: BLE001  (raised again elsewhere)
            for one in waiting:
                one.set_exception(error)
            return
        for one in waiting:
            one.set_result(more)


async def look(account: SharedAccount) -> None:
    """The invariant, once everything that is under way has settled."""
    problem: Exception | None = None
    for _ in range(_TRIES):
        try:
            await account.settled()
            identity = await account.audit()
        except ExchangeError as error:  # a fault of the exchange: ask again
            problem = error
            await asyncio.sleep(0.1)
            continue
        if identity.holds and not any(account.invariant().values()):
            return
        problem = ViolationError(f"{identity} {account.invariant()}")
        await asyncio.sleep(0.05)
    assert problem is not None
    raise problem


def opposite(account: SharedAccount) -> int:
    """In how many contracts two agents stand against each other."""
    found = 0
    for book in account.ledger.books(account.account):
        held = [state.p1 for name, state in book.positions.items() if name in CAPITAL]
        found += any(one > 0 for one in held) and any(one < 0 for one in held)
    return found


class Trader(threading.Thread):
    """Sends random targets through the whole live stack, one episode after another."""

    def __init__(
        self, name: str, account: SharedAccount, bridge: LoopThread, together: Together, seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._account = account
        self._bridge = bridge
        self._together = together
        self._dice = np.random.default_rng(seed)
        self._targets = np.zeros(len(SYMBOLS))
        self.error: BaseException | None = None
        self.steps = 0
        self.candles = 0
        self.endings: list[str] = []

    def run(self) -> None:
        failures = 0
        try:
            while True:
                candles = self.candles
                if not self._episode():
                    return
                failures = 0 if self.candles > candles else failures + 1
                if failures >= _RESTARTS and not self._bridge.call(self._together.request()):
                    return
        except BaseException as error:  # noqa: BLE001  (raised again elsewhere)
            self.error = error
        finally:
            self._bridge.call(self._together.leave())

    def _episode(self) -> bool:
        account, style = self._account.agent(self.name), STYLES[self.name]
        config = EnvConfig.parse(
            {
                "window_size": 1,
                "max_leverage": style.leverage,
                "exchange_leverage": style.exchange_leverage,
                "slippage_bps": 0.0,
                "action": {
                    "scheme": "target",
                    "rebalance_band": style.rebalance_band,
                    "stop_loss_fraction": style.stop_loss_fraction,
                    "take_profit_fraction": style.take_profit_fraction,
                },
            }
        )
        try:
            loaded = self._bridge.call(account.instruments(SYMBOLS))
            for symbol in SYMBOLS:
                self._bridge.call(account.set_leverage(symbol, config.leverage_setting(loaded[symbol])))
        except ExchangeError as error:
            self.endings.append(str(error))
            return len(self.endings) < 1000
        env = LiveEnv(
            account,
            self._bridge,
            interval_ms=INTERVAL_MS,
            config=config,
            features=_FEATURES,
            scaler=None,
            instruments=[loaded[symbol] for symbol in SYMBOLS],
            agent=self.name,
            request_candle=self._together.request,
        )
        limits = RiskLimits(max_drawdown_fraction=None, emergency_tries=12, emergency_delay_s=0.01)
        stack = StepLog(RiskControl(env, limits), agent=self.name)
        try:
            stack.reset()
            while True:
                _, _, terminated, truncated, info = self._step(stack)
                if terminated:
                    self.endings.append("terminated")
                    return True
                if truncated:
                    failure = info.get("failure", "")
                    self.endings.append(failure)
                    return bool(failure)
        except (ExchangeError, MarketDataError) as error:
            self.endings.append(str(error))
            return True
        finally:
            stack.close()
            self._bridge.call(account.close())

    def _step(self, stack: StepLog) -> Any:
        self.steps += 1
        self._targets = STYLES[self.name].draw(self._targets, self._dice)
        stack.execute(stack.plan(self._targets))
        result = stack.advance()
        self.candles += 1
        return result


def trade(session: Session) -> list[Trader]:
    """Trade so many candles; every agent's thread when it is done.

    Raises:
        ViolationError: the invariant did not hold before a candle.
    """
    url, ledger = session.url, Ledger.open(session.database)
    with LoopThread() as bridge:
        exchange = BinanceExchange(
            paper_venue(url, url.replace("http", "ws", 1)),
            Credentials("paper", "paper"),
            SYMBOLS,
            retry=RetryPolicy(attempts=4, delay_s=0.01, max_wait_s=1.5, resolve_s=5.0),
            streams=StreamSettings(late_s=0.2, fill_again_s=(0.05,), give_up_s=5.0, longest_retry_s=0.1),
            recv_window_ms=1000,
            timeout_s=1.0,
            back_end_delay_s=0.1,
        )
        settings = TradeSyncSettings(retry_s=(0.02, 0.05, 0.2), booked_s=(0.02, 0.1, 0.5), stream_s=5.0)
        account, lock_step = None, LockStep(url)
        try:
            for attempt in range(_TRIES):
                try:
                    bridge.call(exchange.connect())
                    sync = TradeSync(exchange, ledger, symbols=SYMBOLS, settings=settings)
                    account = SharedAccount(exchange, ledger, sync, settings_for(session.capital))
                    bridge.call(account.start())
                    break
                except ExchangeError:
                    if attempt == _TRIES - 1:
                        raise
            assert account is not None
            together = Together(account, lock_step, len(CAPITAL), session.candles, Path(session.looks))
            traders = [
                Trader(name, account, bridge, together, 100 * session.seed + number)
                for number, name in enumerate(CAPITAL)
            ]
            for one in traders:
                one.start()
            for one in traders:
                one.join()
            for one in traders:
                if one.error is not None:
                    raise one.error
            bridge.call(look(account))
            return traders
        finally:
            if account is not None:
                bridge.call(account.close())
            bridge.call(lock_step.close())
            bridge.call(exchange.close())
            ledger.close()


def run_forked(session: Session) -> int:
    """A process that trades, from its fork to its end; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with Path(session.log).open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            logging.basicConfig(level=logging.ERROR)
            try:
                for trader in trade(session):
                    endings = {one for one in trader.endings if one}
                    print(trader.name, trader.steps, len(trader.endings), endings, flush=True)
                code = 0
            except BaseException:  # noqa: BLE001  (told by the exit code)
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        child = run_forked(Session(**json.loads(line)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
