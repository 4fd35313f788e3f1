"""The account of a live run, point in time: what was booked by a candle's close, and what came after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import dropwhile

from envs.account import ZERO, Fill
from envs.errors import ExchangeError
from live.account_watch import AccountWatch
from live.exchange.base import Exchange, ExchangeAccount, FundingPayment, parse_client_order_id

_log = logging.getLogger(__name__)

_HOUR_MS = 3_600_000
_WEEK_MS = 168 * _HOUR_MS
# How far our picture of the exchange's clock may be ahead of the one that dates its trades.
_CLOCK_MARGIN_MS = 60_000
# Settlements are booked seconds after the hour: keep asking for a while.
_FUNDING_DELAY_MS = 10 * 60_000
_BEGIN_TRIES = 10


@dataclass(frozen=True, slots=True)
class Beginning:
    """What happened before the run began that no step log and no risk state knows of.

    Attributes:
        fills: in order of time.
        transfers_usdt: deposits less withdrawals.
        around: `fills`, those about the last steps that have a row, and those of somebody else from just before the
            run began by a clock that may be ahead.
    """

    fills: tuple[Fill, ...]
    transfers_usdt: Decimal
    around: tuple[Fill, ...] = ()


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What the exchange booked while a candle played.

    Attributes:
        fills: those that no step asked for, in order of time.
        funding_usdt: by symbol, settled before the candle's end.
        transfers_usdt: deposits less withdrawals.
    """

    fills: tuple[Fill, ...]
    funding_usdt: Mapping[str, Decimal]
    transfers_usdt: Decimal


class LiveAccount:
    """Wallet, positions and funding, read from the exchange and split at candle boundaries.

    A settlement at the open of candle t+1 is not part of the account at the close of candle t, however soon the
    exchange books it: it waits in `_pending` until the step's orders are done. A deposit or withdrawal that comes
    between that close and the step's orders waits in `_moved_usdt` for the next candle: who measures losses hears of it
    then, and would take it for a profit or a loss before.

    Beside what the exchange says stands what fills, funding and transfers explain of it (`_explained_usdt`,
    `_folded`). Where the two differ the exchange's books are searched, so that nothing it does goes unnoticed,
    whenever it does it.
    """

    def __init__(self, exchange: Exchange, symbols: Sequence[str], agent: str) -> None:
        self._exchange = exchange
        self._watch = AccountWatch(exchange)
        self._payments_due = False  # fundings of the last boundary are still to be asked for
        self._symbols = tuple(symbols)
        self._agent = agent
        self.wallet_usdt = ZERO
        self._booked_usdt = ZERO  # the exchange's wallet as it was last read
        self._explained_usdt = ZERO
        self._positions: dict[str, tuple[Decimal, Decimal]] = dict.fromkeys(symbols, (ZERO, ZERO))
        self._folded: dict[str, Decimal] = dict.fromkeys(symbols, ZERO)
        self._pending: dict[str, Decimal] = dict.fromkeys(symbols, ZERO)
        # All fills up to this one are known; beyond it, those of our own orders are.
        self._last_trade: dict[str, int] = {}
        self._own_trades: dict[str, set[int]] = {symbol: set() for symbol in symbols}
        self._history: dict[str, list[Fill]] = {}
        self._funding_since_ms = 0
        self._funding_seen: set[tuple[str, int, str]] = set()
        self._transfers_seen: set[tuple[str, int, str]] = set()
        self.transfers_until_ms = 0  # transfers up to here are known
        self._moved_usdt = ZERO  # transfers that count with the next candle
        self._begin_ms = 0

    def position(self, symbol: str) -> tuple[Decimal, Decimal]:
        """Signed quantity and entry price."""
        return self._positions[symbol]

    async def begin(
        self,
        boundary_ms: int,
        *,
        logged: Collection[tuple[str, str]],
        since_ms: int,
        transfers_since_ms: int | None = None,
    ) -> Beginning:
        """Read the account for the first time.

        Args:
            boundary_ms: open time of the candle that is forming.
            logged: (symbol, trade id) of the fills already in a step log.
            since_ms: fills from here on must be in a step log; 0 for a new run, whose history is not its own.
            transfers_since_ms: transfers up to here are known; None for a new run, which knows all.
        """
        self._begin_ms = boundary_ms
        self._payments_due = False
        self._moved_usdt = ZERO
        self._watch.start()
        # Without a time the exchange tells of the last week only, and the run may have been away for longer.
        look_back_ms = min(since_ms - _CLOCK_MARGIN_MS, boundary_ms - _WEEK_MS) if since_ms else None
        self._funding_since_ms = recent_ms = boundary_ms - _HOUR_MS
        known_ms = recent_ms if transfers_since_ms is None else transfers_since_ms
        # What was paid in before a new run is its capital, and stays so in every later session.
        self.transfers_until_ms = known_ms
        await self._read()
        for _ in range(_BEGIN_TRIES):
            before = self._booked_usdt, dict(self._positions)
            histories = await asyncio.gather(
                *(self._exchange.fills(symbol, since_ms=look_back_ms) for symbol in self._symbols)
            )
            payments = await self._exchange.funding_payments(since_ms=self._funding_since_ms)
            transfers = await self._exchange.transfers(since_ms=min(known_ms, recent_ms) + 1)
            await self._read()
            if before == (self._booked_usdt, self._positions):
                break
            # What was booked between two answers would be in the account, but in none of the lists.
            _log.info("the account changed while its books were read: they are read again")
        else:
            raise ExchangeError(
                f"the account changed each of {_BEGIN_TRIES} times that its books were read: stop whatever else "
                "trades on it, then start again"
            )
        unlogged: list[Fill] = []
        around: list[Fill] = []
        for symbol, fills in zip(self._symbols, histories, strict=True):
            self._history[symbol] = fills
            if fills:
                self._last_trade[symbol] = int(fills[-1].trade_id)
            if since_ms:
                # What follows a fill of the run is of it too, whosever it is and however it is dated.
                later_fills = dropwhile(lambda fill: not self._belongs(fill, since_ms), fills)
                unlogged += [fill for fill in later_fills if (symbol, fill.trade_id) not in logged]
                around += dropwhile(lambda fill: fill.time_ms < since_ms - _CLOCK_MARGIN_MS, fills)
        later = []
        for payment in payments:
            self._funding_seen.add(_key(payment))
            if payment.time_ms >= boundary_ms:
                later.append(payment)
        self._remember(transfers)
        self._explained_usdt = self._booked_usdt
        self._folded = {symbol: quantity for symbol, (quantity, _) in self._positions.items()}
        self._set_pending(later)
        missed = [] if transfers_since_ms is None else [t for t in transfers if t.time_ms > known_ms]
        return Beginning(
            fills=tuple(sorted(unlogged, key=self._order_of)),
            transfers_usdt=sum((one.amount_usdt for one in missed), ZERO),
            around=tuple(sorted(around, key=self._order_of)),
        )

    def _belongs(self, fill: Fill, since_ms: int) -> bool:
        """Whether a fill is of a run whose fills are those since a time.

        That time was read off our picture of the exchange's clock, which may be ahead of the one that dates trades:
        what bears our own name counts from a little before.
        """
        if fill.time_ms >= since_ms:
            return True
        parsed = parse_client_order_id(fill.client_order_id)
        return (
            parsed is not None and parsed.agent == self._agent and fill.time_ms >= since_ms - _CLOCK_MARGIN_MS
        )

    def candles_held(self, symbol: str, boundary_ms: int, interval_ms: int) -> int:
        """Candles that the position was held for when the run began, from the fills that the exchange keeps."""
        quantity, _ = self._positions[symbol]
        if quantity == 0:
            return 0
        fills = self._history[symbol]
        running = quantity - sum((f.signed_quantity for f in fills), ZERO)
        opened_ms = fills[0].time_ms if fills else boundary_ms
        for fill in fills:
            after = running + fill.signed_quantity
            if running * after <= 0:
                opened_ms = fill.time_ms
            running = after
        return max(0, (boundary_ms - opened_ms + opened_ms % interval_ms) // interval_ms)

    async def refresh(self) -> None:
        """Read wallet and positions; nothing is attributed."""
        await self._read()

    async def after_orders(self, fills: Sequence[Fill]) -> dict[str, Decimal]:
        """Read the account after a step's orders; returns the funding that fell on the candle's open, by symbol."""
        for fill in fills:
            self._own_trades[fill.symbol].add(int(fill.trade_id))
            self._explain(fill)
        if self._payments_due:
            self._set_pending(await self._new_payments())
            self._payments_due = False
        await self._read()
        funding = self._pending
        self._set_pending(())
        if not self._is_explained():
            self._watch.doubt()
        return funding

    async def put_transfers_aside(self) -> None:
        """Keep money that was moved since the candle's close out of the wallet until the next one.

        Once whatever cannot wait is done: where `after_orders` left something unexplained, the exchange is asked.

        Raises:
            ExchangeError: the account cannot be read.
        """
        if self._booked_usdt == self._explained_usdt:
            return
        try:
            moved = await self._new_transfers()
        except ExchangeError as error:
            _log.warning(
                "whether money was moved cannot be read (%s): what it did to the wallet counts", error
            )
            return
        if moved:
            self._moved_usdt += moved
            await self._read()  # one that came between the two answers was listed, but not in the wallet yet

    def _is_explained(self) -> bool:
        return self._booked_usdt == self._explained_usdt and all(
            self._positions[symbol][0] == folded for symbol, folded in self._folded.items()
        )

    async def after_candle(self, boundary_ms: int, *, quiet: bool = False) -> Meanwhile:
        """Read what happened since the last call: fills that no step asked for, funding, transfers.

        Args:
            boundary_ms: open time of the next candle: what is dated from there on belongs to the next step.
            quiet: nothing in the candle can have touched the account. When the account's events agree, nothing is
                read now: `after_orders` does it, and asks for the fundings.
        """
        self._watch.start()  # where the stream has ended
        may_settle = boundary_ms % _HOUR_MS <= _FUNDING_DELAY_MS
        if quiet and not self._moved_usdt and self.is_unchanged(boundary_ms):
            self._payments_due = self._payments_due or may_settle
            return Meanwhile((), dict.fromkeys(self._symbols, ZERO), ZERO)
        payments: list[FundingPayment] = []
        if may_settle:
            payments = await self._new_payments()
        await self._read()
        if self._booked_usdt != self._explained_usdt:
            payments += await self._new_payments()
        fills = await self.missed_fills()
        transfers = self._moved_usdt
        if self._booked_usdt != self._explained_usdt:
            transfers += await self._new_transfers()
        if self._booked_usdt != self._explained_usdt:
            _log.info(
                "wallet changed by %s USDT beside fills, funding and transfers",
                self._booked_usdt - self._explained_usdt,
            )
            self._explained_usdt = self._booked_usdt
        inner = dict.fromkeys(self._symbols, ZERO)
        later = []
        for payment in payments:
            if payment.symbol not in inner:
                continue
            if payment.time_ms < boundary_ms:
                inner[payment.symbol] += payment.amount_usdt
            else:
                later.append(payment)
        self._moved_usdt = ZERO
        self._set_pending(later)
        return Meanwhile(tuple(fills), inner, transfers)

    async def missed_fills(self) -> list[Fill]:
        """Fills that explain what changed beside our own orders, in order of time; each once."""
        if self._booked_usdt == self._explained_usdt:
            asked = [s for s in self._symbols if self._positions[s][0] != self._folded[s]]
        else:
            asked = list(self._symbols)
        fills = [fill for symbol in asked for fill in await self._new_fills(symbol)]
        if any(fill.liquidation for fill in fills):
            fills = await self._with_liquidation_fees(fills)
        for fill in fills:
            self._explain(fill)
        return sorted(fills, key=self._order_of)

    async def _with_liquidation_fees(self, fills: Sequence[Fill]) -> list[Fill]:
        """Liquidation fees are booked beside the trades: put each on its symbol's last liquidating fill."""
        first_ms = min(fill.time_ms for fill in fills if fill.liquidation)
        fees = dict.fromkeys(self._symbols, ZERO)
        for fee in await self._exchange.liquidation_fees(since_ms=first_ms):
            if fee.symbol in fees:
                fees[fee.symbol] -= fee.amount_usdt
        charged = []
        for fill in reversed(fills):
            if fill.liquidation:
                fill = replace(fill, commission=fill.commission + fees.pop(fill.symbol, ZERO))
            charged.append(fill)
        return charged[::-1]

    def _order_of(self, fill: Fill) -> tuple[int, int, int]:
        """Trade ids count by symbol: of one moment, the simulation's order is that of the symbols."""
        return fill.time_ms, self._symbols.index(fill.symbol), int(fill.trade_id)

    def _explain(self, fill: Fill) -> None:
        self._folded[fill.symbol] += fill.signed_quantity
        self._explained_usdt += fill.realized_pnl
        if fill.commission_asset == "USDT":  # a fee in BNB leaves this wallet alone
            self._explained_usdt -= fill.commission

    def is_unchanged(self, before_ms: int) -> bool:
        """Whether the account is surely as it was last read, but for fundings from `before_ms` on."""
        quantities = {symbol: quantity for symbol, (quantity, _) in self._positions.items()}
        return self._watch.agrees(self._booked_usdt, quantities, self._knows_trade, before_ms)

    def _knows_trade(self, symbol: str, trade: int) -> bool:
        return trade <= self._last_trade.get(symbol, -1) or trade in self._own_trades.get(symbol, ())

    async def close(self) -> None:
        """End the account's event stream."""
        await self._watch.close()

    async def _read(self) -> None:
        self._watch.begin_reading()
        try:
            self._take(await self._exchange.account())
        except BaseException:
            self._watch.doubt()
            raise

    def _take(self, account: ExchangeAccount) -> None:
        self._booked_usdt = account.wallet_usdt
        self._set_wallet()
        for symbol in self._symbols:
            position = account.positions.get(symbol)
            self._positions[symbol] = (
                (ZERO, ZERO) if position is None else (position.quantity, position.entry_price)
            )

    def _set_pending(self, payments: Sequence[FundingPayment]) -> None:
        self._pending = dict.fromkeys(self._symbols, ZERO)
        for payment in payments:
            if payment.symbol in self._pending:
                self._pending[payment.symbol] += payment.amount_usdt
        self._set_wallet()

    def _set_wallet(self) -> None:
        self.wallet_usdt = self._booked_usdt - sum(self._pending.values(), ZERO) - self._moved_usdt

    async def _new_payments(self) -> list[FundingPayment]:
        payments = await self._exchange.funding_payments(since_ms=self._funding_since_ms)
        fresh = [payment for payment in payments if _key(payment) not in self._funding_seen]
        if fresh:
            # Keep asking from the newest on: a settlement books all symbols, not all at once.
            self._funding_since_ms = max(payment.time_ms for payment in fresh) - _FUNDING_DELAY_MS
            self._funding_seen = {k for k in self._funding_seen if k[1] >= self._funding_since_ms}
            self._funding_seen.update(_key(payment) for payment in fresh)
            self._explained_usdt += sum((payment.amount_usdt for payment in fresh), ZERO)
        return fresh

    async def _new_transfers(self) -> Decimal:
        listed = await self._exchange.transfers(since_ms=self._begin_ms - _HOUR_MS + 1)
        fresh = [one for one in listed if _key(one) not in self._transfers_seen]
        self._remember(fresh)
        total = sum((one.amount_usdt for one in fresh), ZERO)
        self._explained_usdt += total
        return total

    def _remember(self, transfers: Sequence[FundingPayment]) -> None:
        self._transfers_seen.update(_key(one) for one in transfers)
        self.transfers_until_ms = max((self.transfers_until_ms, *(one.time_ms for one in transfers)))

    async def _new_fills(self, symbol: str) -> list[Fill]:
        last = self._last_trade.get(symbol)
        if last is None:
            fills = await self._exchange.fills(symbol, since_ms=self._begin_ms - _HOUR_MS)
        else:
            fills = await self._exchange.fills(symbol, from_id=str(last + 1))
        own = self._own_trades[symbol]
        fresh = [f for f in fills if (last is None or int(f.trade_id) > last) and int(f.trade_id) not in own]
        if fills:
            self._last_trade[symbol] = int(fills[-1].trade_id)
            own -= {trade for trade in own if trade <= self._last_trade[symbol]}
        return fresh


def _key(payment: FundingPayment) -> tuple[str, int, str]:
    return payment.symbol, payment.time_ms, payment.transaction_id
