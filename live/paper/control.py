"""Control routes, outside Binance's paths and answered to clients on this machine only.

`GET /paper/state`                  clock, index, remaining candles, speed, symbols
`POST /paper/advance`               `{"candles": 1}` plays candles (lock-step only)
`GET /paper/faults`                 what is armed, the schedule, what has struck
`POST /paper/faults`                `{"kind": "lost_after", "path": "/fapi/v1/order"}` arms a fault, or does it at once
`POST /paper/faults/schedule`       `{"seed": 1, "probability": {"lost_after": 0.05}}` draws faults by a seed
`DELETE /paper/faults`              disarms everything, ends the schedule, lifts bans, puts the clock right
`GET /paper/limits`, `POST /paper/limits`   reads, changes the rate limits, and forgets what was counted
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from envs.account import Side
from envs.errors import ConfigError
from live.paper import desk
from live.paper.account import Account
from live.paper.closing import deleverage, liquidate
from live.paper.errors import ApiError, refusal
from live.paper.exchange import PaperExchange
from live.paper.fault_specs import Action, FaultSchedule, parse_fault
from live.paper.faults import FaultBook
from live.paper.limits import Limits, LimitSettings
from live.paper.orders import OrderRequest
from live.paper.sockets import GOING_AWAY, Connection

Interrupt = Callable[[float], Awaitable[None]]
"""Cut every connection and refuse new ones for so many seconds."""

_LOG = logging.getLogger(__name__)
_DRAIN_BACKLOG = 500
_DRAIN_TRIES = 2000
# A control reply leaves before the connection that it came over is cut.
_BEFORE_RESTART_S = 0.05


class Control:
    """Serves the control routes, and does what a fault schedule asks for."""

    def __init__(
        self, exchange: PaperExchange, limits: Limits, faults: FaultBook, connections: set[Connection]
    ) -> None:
        self.interrupt: Interrupt | None = None
        self._exchange = exchange
        self._limits = limits
        self._faults = faults
        self._connections = connections
        self._advancing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._manual_orders = 0
        exchange.on_candle = self._at_candle

    async def answer(self, method: str, path: str, body: bytes) -> Any:
        """The JSON reply of a control route.

        Raises:
            ApiError: no such route, or a body that cannot be used.
        """
        asked = (method, path)
        if asked == ("GET", "/paper/state"):
            return self._exchange.state()
        if asked == ("POST", "/paper/advance"):
            return await self._advance(_candles_asked(body))
        if asked == ("GET", "/paper/faults"):
            return self._faults.as_json()
        if asked == ("GET", "/paper/limits"):
            return self._limits.settings.model_dump(mode="json")
        try:
            if asked == ("POST", "/paper/faults"):
                return self._fault(_object(body))
            if asked == ("POST", "/paper/faults/schedule"):
                self._faults.draw_by(FaultSchedule.parse(_object(body), where="schedule"))
                return self._faults.as_json()
            if asked == ("POST", "/paper/limits"):
                return self._change_limits(_object(body))
        except ConfigError as problem:
            raise ApiError(-1130, str(problem)) from None
        if asked == ("DELETE", "/paper/faults"):
            self._faults.clear()
            self._limits.forgive()
            self._exchange.skew_clock(0)
            return self._faults.as_json()
        raise ApiError(-5000, f"Path {path}, Method {method} is invalid", http_status=404)

    async def stop(self) -> None:
        """End what was begun and is not done yet."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _fault(self, values: dict[str, Any]) -> Any:
        fault = parse_fault(values)
        if not isinstance(fault, Action):
            return {"armed": self._faults.arm(fault)}
        done = self._do(fault)
        self._faults.note(fault.kind, "on demand")
        return {"done": fault.kind, **done}

    def _change_limits(self, values: dict[str, Any]) -> Any:
        settings = LimitSettings.parse({**self._limits.settings.model_dump(), **values}, where="limits")
        self._limits.settings = self._exchange.limit_settings = settings
        self._limits.forgive()
        return settings.model_dump(mode="json")

    # --- time -----------------------------------------------------------------------------------------

    async def _advance(self, candles: int) -> Any:
        async with self._advancing:
            step = self._exchange.advance()
            for _ in range(candles - 1):
                if not step.remaining:
                    break
                await self._drain()
                step = self._exchange.advance()
        return step.as_json()

    async def _drain(self) -> None:
        """Let the sockets send before more is played, within reason."""
        await asyncio.sleep(0)
        for _ in range(_DRAIN_TRIES):
            if all(connection.backlog < _DRAIN_BACKLOG for connection in self._connections):
                return
            await asyncio.sleep(0.001)

    # --- what is done at once -------------------------------------------------------------------------

    def _at_candle(self) -> None:
        action = self._faults.for_candle()
        if action is not None:
            self._do(action)

    def _do(self, action: Action) -> dict[str, Any]:
        """Carry out an action; what there is to tell of it."""
        match action.kind:
            case "manual_trade":
                return self._trade(action)
            case "liquidate":
                return self._liquidate(action)
            case "deleverage":
                return self._deleverage(action)
            case "transfer":
                return self._transfer(action)
            case "clock_skew":
                self._exchange.skew_clock(action.offset_ms)
                return {"serverTime": self._exchange.server_ms}
            case "expire_listen_keys":
                self._exchange.hub.expire_listen_keys(self._exchange.now_ms, api_keys=action.api_key)
                return {}
            case "restart":
                if self.interrupt is None:
                    raise ApiError(-1130, "This exchange was not started in a way that lets it restart.")
                self._later(self._restart(action.delay_ms / 1000, self.interrupt))
                return {}
            case _:
                return {"sockets": self._break_sockets(action)}

    def _break_sockets(self, action: Action) -> int:
        hit = [one for one in self._connections if fnmatchcase(one.category, action.category)]
        for connection in hit:
            match action.kind:
                case "drop_sockets":
                    connection.drop()
                case "close_sockets":
                    connection.close(GOING_AWAY)
                case "silence_sockets":
                    connection.silence(action.delay_ms / 1000)
                case "half_open_sockets":
                    connection.half_open()
                case "shutdown_sockets":
                    connection.announce_shutdown(self._exchange.now_ms)
                    self._later(_close_later(connection, action.delay_ms / 1000))
        return len(hit)

    async def _restart(self, down_s: float, interrupt: Interrupt) -> None:
        await asyncio.sleep(_BEFORE_RESTART_S)
        await interrupt(down_s)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a fault on demand failed", exc_info=task.exception())

    # --- somebody else on the account -----------------------------------------------------------------

    def _trade(self, action: Action) -> dict[str, Any]:
        """An order as a person sends it from the website, without the client's knowing."""
        engine, account = self._exchange.engine, self._account(action.api_key)
        self._exchange.tick()
        self._manual_orders += 1
        limit = action.price is not None
        order = desk.place_order(
            engine,
            account,
            OrderRequest(
                symbol=action.symbol,
                side=Side(action.side),
                type="LIMIT" if limit else "MARKET",
                quantity=action.quantity,
                price=action.price or Decimal(0),
                client_order_id=f"web_{self._manual_orders:016d}",
            ),
        )
        self._exchange.flush()
        return {"orderId": order.order_id, "status": order.status.value}

    def _liquidate(self, action: Action) -> dict[str, Any]:
        account = self._account(action.api_key)
        symbols = [position.symbol for position in account.held()]
        if not symbols:
            raise ApiError(-1130, f"The account {action.api_key!r} holds nothing that could be liquidated.")
        self._exchange.tick()
        liquidate(self._exchange.engine, account)
        self._exchange.flush()
        return {"symbols": symbols}

    def _deleverage(self, action: Action) -> dict[str, Any]:
        """Auto-deleveraging: the account's position closes against somebody else's liquidation."""
        engine, account = self._exchange.engine, self._account(action.api_key)
        position = next((one for one in account.held() if one.symbol == action.symbol), None)
        if position is None or action.quantity > abs(position.quantity):
            held = "nothing" if position is None else abs(position.quantity)
            raise ApiError(
                -1130,
                f"The account {action.api_key!r} holds {held} of {action.symbol!r}; {action.quantity} cannot be "
                "deleveraged.",
            )
        self._exchange.tick()
        price = action.price or engine.mark(action.symbol)
        trade = deleverage(engine, account, position, action.quantity or abs(position.quantity), price)
        self._exchange.flush()
        return {"tradeId": trade.trade_id}

    def _transfer(self, action: Action) -> dict[str, Any]:
        """Money that comes from, or goes to, another wallet of the same person."""
        account, amount = self._account(action.api_key), action.amount_usdt
        if not amount or account.wallet_usdt + amount < 0:
            raise ApiError(
                -1130, f"amount_usdt is {amount}; the wallet holds {account.wallet_usdt}: give another amount"
            )
        self._exchange.tick()
        account.book_income("TRANSFER", amount, "", self._exchange.now_ms)
        reason = "DEPOSIT" if amount > 0 else "WITHDRAW"
        self._exchange.engine.emit_account(account, reason, balance_change=amount)
        self._exchange.flush()
        return {"walletBalance": str(account.wallet_usdt)}

    def _account(self, api_key: str) -> Account:
        accounts = self._exchange.engine.accounts
        if api_key == "*" and len(accounts) == 1:
            return next(iter(accounts.values()))
        found = accounts.get(api_key)
        if found is None:
            raise ApiError(-1130, f"api_key is {api_key!r}; give one of {', '.join(accounts)}")
        return found


async def _close_later(connection: Connection, after_s: float) -> None:
    await asyncio.sleep(after_s)
    connection.close(GOING_AWAY)


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body) if body else {}
    except json.JSONDecodeError as problem:
        raise ApiError(-1130, f"The body is no JSON: {problem}") from None
    if not isinstance(values, dict):
        raise ApiError(-1130, 'The body must be a JSON object like {"kind": "lost_after"}')
    return values


def _candles_asked(body: bytes) -> int:
    try:
        asked = json.loads(body) if body else {}
    except json.JSONDecodeError as problem:
        raise ApiError(-1130, f'The body must be JSON like {{"candles": 1}}: {problem}') from None
    count = asked.get("candles", 1) if isinstance(asked, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise refusal(-1130, "candles")
    return count
