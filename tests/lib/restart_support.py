"""Sessions of a live run on one exchange, in process: ended at a chosen point, started again, and checked."""

from __future__ import annotations

import inspect
import io
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from live_support import FEATURES, Scripted, env_config, rows_of
from support import market_of

from agents.base import Agent, AgentSetup
from envs.account import Side
from envs.market import Market
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from live.console import LiveConsole
from live.paper import desk
from live.paper.account import PaperAccount
from live.paper.feeds import ReplayFeed
from live.paper.orders import OrderRequest
from live.paper.runtime import PaperServer
from live.runner import LiveOptions, LiveResult, _LiveLog, run_live
from live.venues import PaperOptions, VenueChoice

HOUR = 3_600_000
STOPS = env_config(action={"scheme": "quantity", "stop_loss_fraction": 0.02})


class Killed(BaseException):
    """The process ends here."""


def market(count: int = 30, price: float = 50_000.0, **options: Any) -> Market:
    """Hourly candles that stand still at one price."""
    return market_of([(price,) * 4] * count, **options)


def serve(market: Market) -> PaperServer:
    """A paper exchange that plays a market from its third candle on, with one account of 10000 USDT."""
    return PaperServer.start(ReplayFeed(market, 2), (PaperAccount(wallet_usdt=Decimal(10_000)),))


def live_options(
    server: PaperServer,
    folder: Path,
    agent: Agent,
    *,
    steps: int,
    config: EnvConfig | None = None,
    limits: RiskLimits | None = None,
    paper: PaperOptions | None = None,
    **options: Any,
) -> LiveOptions:
    """The runner's options for a session on the server."""
    return LiveOptions(
        setup=AgentSetup(agent, config or env_config(), FEATURES, limits=limits or RiskLimits()),
        symbols=("BTCUSDT",),
        interval_ms=HOUR,
        folder=folder,
        choice=VenueChoice.PAPER,
        paper=paper or PaperOptions(url=server.rest_url),
        steps=steps,
        **options,
    )


def session(
    server: PaperServer, folder: Path, *actions: Sequence[float], steps: int | None = None, **options: Any
) -> LiveResult:
    """One session of the runner on the server, playing actions."""
    agent = Scripted(*actions) if actions else Scripted([0.0])
    steps = len(actions) if steps is None else steps
    return run_live(
        live_options(server, folder, agent, steps=steps, **options),
        LiveConsole(quiet=True, out=io.StringIO()),
    )


def kill(patch: pytest.MonkeyPatch, owner: Any, name: str, *, call: int = 1, after: bool = False) -> None:
    """End the process at the `call`th call of a method, before it or after it; nothing is written any more."""
    count = [0]
    original = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] < call:
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        raise Killed

    async def dying_async(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] < call:
            return await original(*arguments, **options)
        if after:
            await original(*arguments, **options)
        raise Killed

    patch.setattr(owner, name, dying_async if inspect.iscoroutinefunction(original) else dying)
    patch.setattr(_LiveLog, "close", lambda self: self._file.close())


def account(server: PaperServer) -> Any:
    """The account at the exchange, as it is."""
    return server.exchange.engine.accounts["paper"]


def stops(server: PaperServer) -> list[tuple[Decimal, Decimal]]:
    """Price and quantity of every trigger order that rests at the exchange."""
    orders = account(server).open_algo_orders.values()
    return sorted((order.trigger_price, order.quantity) for order in orders)


def by_hand(server: PaperServer, side: Side, quantity: str) -> None:
    """Trade on the account beside the run."""
    name = f"web_{quantity}_{len(account(server).orders)}"
    order = OrderRequest("BTCUSDT", side, "MARKET", Decimal(quantity), client_order_id=name)
    desk.place_order(server.exchange.engine, account(server), order)


def check(server: PaperServer, folder: Path) -> list[dict[str, str]]:
    """Log and exchange tell the same story: each fill once, no candle decided on twice, steps in order."""
    rows = rows_of(folder)
    logged = Counter(trade for row in rows for trade in row["trade_id"].split(";") if trade)
    assert set(logged.values()) <= {1}
    assert set(logged) == {str(trade.trade_id) for trade in account(server).trades.get("BTCUSDT", [])}
    decided = Counter(row["timestamp"] for row in rows if row["action"])
    assert set(decided.values()) <= {1}
    numbers = [int(row["step"]) for row in rows]
    assert numbers == sorted(numbers)
    ids = Counter(trade.order.client_order_id for trade in account(server).trades.get("BTCUSDT", []))
    assert set(ids.values()) <= {1}
    return rows
