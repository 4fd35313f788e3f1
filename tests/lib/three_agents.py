"""Agents that trade at random on one shared account, each in a thread of its own; also as a process, to be killed.

`python tests/lib/three_agents.py URL DATABASE SEED UNTIL`
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
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
LEVERAGE = 8.0
CAPITAL = {"calm": "3000", "wild": "2500", "LLM-A": "2000"}
SETTINGS = SharedAccountSettings.parse(
    {
        "agents": {name: {"capital_usdt": amount} for name, amount in CAPITAL.items()},
        "symbols": SYMBOLS,
        "watch_s": 1.0,
        "close_delay_s": 0.02,
    }
)
_FEATURES = FeatureConfig.model_validate({"indicators": [{"name": "high_low_range"}]})
_TRIES = 40


class ViolationError(AssertionError):
    """The ledger and the exchange differ."""


class Together:
    """Has the next candle played once every agent has asked for it, after looking at the books."""

    def __init__(self, account: SharedAccount, lock_step: LockStep, agents: int, until: int) -> None:
        self._account = account
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
        self.error: BaseException | None = None
        self.steps = 0
        self.endings: list[str] = []

    def run(self) -> None:
        try:
            while self._episode():
                pass
        except BaseException as error:  # noqa: BLE001  (raised again elsewhere)
            self.error = error
        finally:
            self._bridge.call(self._together.leave())

    def _episode(self) -> bool:
        account = self._account.agent(self.name)
        config = EnvConfig.parse(
            {
                "window_size": 1,
                "max_leverage": LEVERAGE,
                "slippage_bps": 0.0,
                "action": {
                    "scheme": "target",
                    "rebalance_band": 0.0,
                    "stop_loss_fraction": 0.01,
                    "take_profit_fraction": 0.012,
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
        size = {"calm": 0.15, "wild": 1.0}.get(self.name, 0.5)
        action = self._dice.uniform(-size, size, len(SYMBOLS)) * self._dice.integers(0, 2, len(SYMBOLS))
        stack.execute(stack.plan(action))
        return stack.advance()


def trade(url: str, database: str, seed: int, candles: int) -> list[Trader]:
    """Trade so many candles; every agent's thread when it is done.

    Raises:
        ViolationError: the invariant did not hold before a candle.
    """
    ledger = Ledger.open(database)
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
                    account = SharedAccount(exchange, ledger, sync, SETTINGS)
                    bridge.call(account.start())
                    break
                except ExchangeError:
                    if attempt == _TRIES - 1:
                        raise
            assert account is not None
            together = Together(account, lock_step, len(CAPITAL), candles)
            traders = [
                Trader(name, account, bridge, together, seed + number) for number, name in enumerate(CAPITAL)
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


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    done = trade(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    for trader in done:
        print(trader.name, trader.steps, Decimal(len(trader.endings)), set(trader.endings), flush=True)
