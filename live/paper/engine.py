"""The exchange's core: accounts, prices, fills, funding, liquidation. Synchronous; no I/O and no clock.

Somebody else moves time and prices (`live.paper.play`) and turns requests into orders (`live.paper.desk`).
What the accounts' owners should hear of is appended to `outbox`, in order.

Mark price and last price are the same here: history holds one price series, and the simulator marks by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import Side
from envs.errors import ConfigError
from envs.instruments import Instrument
from live.paper import events
from live.paper.account import DEFAULT_LEVERAGE, Account, PaperAccount, Position
from live.paper.margin import has_margin, margin_excess, order_notionals
from live.paper.money import ONE, ZERO, booked
from live.paper.orders import AlgoOrder, AlgoStatus, Order, Status, Trade

EXPIRED_BY_LIQUIDATION = 5
EXPIRED_BY_IOC = 2
EXPIRED_UNFILLED = 9
FIRST_ALGO_ID = 3_000_000_000


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How orders fill. `slippage_bps` moves every taker fill against the taker, in 1/100 of a percent."""

    instruments: Mapping[str, Instrument]
    slippage_bps: Decimal = ZERO
    default_leverage: int = DEFAULT_LEVERAGE

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ConfigError("a paper exchange needs at least one instrument")
        if not ZERO <= self.slippage_bps < 10_000:
            raise ConfigError(f"slippage_bps is {self.slippage_bps}; it must be from 0 to below 10000")


@dataclass(frozen=True, slots=True)
class PartialFill:
    """How much of an order that takes finds a counterparty: a share of it, in so many trades."""

    share: Decimal
    pieces: int = 1


@dataclass(slots=True)
class Sequence:
    """Ids counting up from 1."""

    last: int = 0

    def next(self) -> int:
        """The next id."""
        self.last += 1
        return self.last


@dataclass(slots=True)
class Engine:
    """All accounts, and the one price per symbol at which they trade. `clock_ms` is the exchange's time."""

    settings: EngineSettings
    clock_ms: int
    prices: dict[str, Decimal]
    accounts: dict[str, Account] = field(default_factory=dict)
    outbox: list[tuple[Account, events.Event]] = field(default_factory=list)
    order_ids: Sequence = field(default_factory=Sequence)
    # Far from the order ids, as on Binance: ccxt keeps both kinds in one table by their number.
    algo_ids: Sequence = field(default_factory=lambda: Sequence(FIRST_ALGO_ID))
    partial_fill: PartialFill | None = None

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """Trading rules by symbol."""
        return self.settings.instruments

    def add_account(self, config: PaperAccount) -> Account:
        """Open an account under a new API key."""
        if config.api_key in self.accounts:
            raise ConfigError(f"two accounts with the API key {config.api_key!r}; give each its own")
        account = Account(config, len(self.accounts) + 1, self.clock_ms)
        for symbol, instrument in self.instruments.items():
            account.leverage[symbol] = min(self.settings.default_leverage, instrument.max_leverage)
        self.accounts[config.api_key] = account
        return account

    def taker_price(self, price: Decimal, side: Side) -> Decimal:
        """`price` moved against a taker by the slippage. Not rounded to the tick: it is an average."""
        return booked(price * (ONE + side.sign * self.settings.slippage_bps / 10_000))

    def pieces(self, symbol: str, quantity: Decimal) -> list[Decimal]:
        """The trades in which a taker's quantity fills: one of all of it, unless `partial_fill` says otherwise."""
        partial = self.partial_fill
        if partial is None or not quantity:
            return [quantity]
        step = self.instruments[symbol].step_size
        steps = int(max(step, quantity * partial.share) // step)
        count = min(partial.pieces, steps)
        each, over = divmod(steps, count)
        return [(each + (index < over)) * step for index in range(count)]

    def commission(self, symbol: str, quantity: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """quantity * price * rate, in USDT."""
        instrument = self.instruments[symbol]
        return booked(quantity * price * (instrument.maker_fee if maker else instrument.taker_fee))

    # --- events ---------------------------------------------------------------------------------------

    def emit(self, account: Account, event: events.Event) -> None:
        """Queue an event for the owner of an account."""
        self.outbox.append((account, event))

    def emit_order(
        self, account: Account, order: Order, execution: str, *, trade: Trade | None = None, reason: int = 0
    ) -> None:
        """Queue ORDER_TRADE_UPDATE for an order's present state."""
        resting = [other for other in account.open_orders.values() if other.symbol == order.symbol]
        bids, asks = order_notionals(account.position(order.symbol), resting)
        event = events.order_trade_update(
            self.instruments[order.symbol],
            order,
            self.clock_ms,
            execution,
            trade=trade,
            bids=bids,
            asks=asks,
            reason=reason,
        )
        self.emit(account, event)

    def emit_algo(self, account: Account, algo: AlgoOrder) -> None:
        """Queue ALGO_UPDATE for an algo order's present state."""
        self.emit(account, events.algo_update(self.instruments[algo.symbol], algo, self.clock_ms))

    def emit_account(self, account: Account, reason: str, positions: Iterable[Position]) -> None:
        """Queue ACCOUNT_UPDATE with the given positions at current prices."""
        rows = [(p, self.prices[p.symbol], self.instruments[p.symbol]) for p in positions]
        self.emit(account, events.account_update(account, self.clock_ms, reason, positions=rows))

    # --- orders ---------------------------------------------------------------------------------------

    def accept(self, account: Account, order: Order) -> None:
        """Put a checked order on the books."""
        account.add_order(order)
        self.emit_order(account, order, "NEW")

    def fill(
        self,
        account: Account,
        order: Order,
        price: Decimal,
        *,
        maker: bool = False,
        quantity: Decimal | None = None,
    ) -> Trade:
        """Fill an open order at `price`, wholly unless a smaller `quantity` is given, and charge the fee."""
        amount = order.remaining if quantity is None else quantity
        commission = self.commission(order.symbol, amount, price, maker=maker)
        trade = account.book_fill(order, amount, price, commission, maker=maker, time_ms=self.clock_ms)
        order.status = Status.PARTIALLY_FILLED if order.remaining else Status.FILLED
        if not order.remaining:
            account.close_order(order)
        self.emit(account, events.trade_lite(self.instruments[order.symbol], trade))
        self.emit_order(account, order, "TRADE", trade=trade)
        position = account.position(order.symbol)
        self.emit_account(account, "ORDER", [position])
        if not position.quantity:
            self._expire_with_position(account, order.symbol)
        return trade

    def fill_resting(self, account: Account, order: Order) -> None:
        """Fill a resting LIMIT order at its price, as a maker; a reduce-only one never beyond the position."""
        quantity = order.remaining
        if order.reduce_only:
            held = account.position(order.symbol).quantity
            quantity = min(quantity, abs(held)) if held * order.side.sign < 0 else ZERO
        if quantity:
            self.fill(account, order, order.price, maker=True, quantity=quantity)
        if order.is_open:
            self.end_order(account, order, Status.EXPIRED)

    def end_order(self, account: Account, order: Order, status: Status, *, reason: int = 0) -> None:
        """Cancel or expire what is left of an open order."""
        order.status = status
        order.update_ms = self.clock_ms
        account.close_order(order)
        self.emit_order(account, order, status.value, reason=reason)

    def end_algo(self, account: Account, algo: AlgoOrder, status: AlgoStatus, reason: str = "") -> None:
        """Cancel, expire, reject or finish a conditional order."""
        algo.status = status
        algo.reason = reason
        algo.update_ms = self.clock_ms
        account.close_algo_order(algo)
        self.emit_algo(account, algo)

    def trigger(self, account: Account, algo: AlgoOrder, price: Decimal) -> None:
        """Set off a conditional order: a market order that fills at `price` moved by the slippage."""
        algo.status = AlgoStatus.TRIGGERING
        algo.trigger_ms = algo.update_ms = self.clock_ms
        account.close_algo_order(algo)
        self.emit_algo(account, algo)
        held = account.position(algo.symbol).quantity
        quantity = algo.quantity
        if algo.close_position or algo.reduce_only:
            if held * algo.side.sign >= 0:
                self.end_algo(account, algo, AlgoStatus.EXPIRED, "ReduceOnly reject")
                return
            quantity = abs(held) if algo.close_position else min(quantity, abs(held))
        fill_price = self.taker_price(price, algo.side)
        if not self.can_afford(account, algo.symbol, quantity * algo.side.sign, fill_price):
            self.end_algo(account, algo, AlgoStatus.REJECTED, "Margin is insufficient.")
            return
        order = Order(
            order_id=self.order_ids.next(),
            client_order_id=algo.client_algo_id,
            symbol=algo.symbol,
            side=algo.side,
            type="MARKET",
            time_in_force=algo.time_in_force,
            quantity=quantity,
            price=ZERO,
            reduce_only=algo.reduce_only or algo.close_position,
            position_side=algo.position_side,
            working_type=algo.working_type,
            time_ms=self.clock_ms,
            update_ms=self.clock_ms,
            orig_type=algo.type,
            stop_price=algo.trigger_price,
            close_position=algo.close_position,
            price_protect=algo.price_protect,
        )
        algo.order = order
        algo.status = AlgoStatus.TRIGGERED
        self.emit_algo(account, algo)
        self.accept(account, order)
        self.fill(account, order, fill_price)
        self.end_algo(account, algo, AlgoStatus.FINISHED)

    def can_afford(
        self,
        account: Account,
        symbol: str,
        change: Decimal,
        price: Decimal,
        *,
        maker: bool = False,
        reserved: Decimal = ZERO,
    ) -> bool:
        """Whether the margin allows a signed change at `price`. What only reduces is always allowed."""
        if account.position(symbol).reduces(change):
            return True
        return has_margin(
            account,
            self.prices,
            account.leverage,
            symbol=symbol,
            change=change,
            price=price,
            commission=self.commission(symbol, abs(change), price, maker=maker),
            reserved=reserved,
        )

    def _expire_with_position(self, account: Account, symbol: str) -> None:
        """GTE_GTC orders live only while there is a position."""
        for algo in [a for a in account.open_algo_orders.values() if a.symbol == symbol]:
            if algo.time_in_force == "GTE_GTC":
                self.end_algo(account, algo, AlgoStatus.EXPIRED, "Position closed")

    # --- funding and liquidation ----------------------------------------------------------------------

    def book_funding(self, per_unit: Mapping[str, Decimal]) -> None:
        """Charge funding: payment = -quantity * per_unit, `per_unit` being the sum of rate * mark in USDT."""
        for symbol, amount_per_unit in per_unit.items():
            if not amount_per_unit:
                continue
            for account in self.accounts.values():
                position = account.positions.get(symbol)
                if position is None or not position.quantity:
                    continue
                amount = booked(-position.quantity * amount_per_unit)
                account.book_income("FUNDING_FEE", amount, symbol, self.clock_ms)
                event = events.account_update(
                    account, self.clock_ms, "FUNDING_FEE", balance_change=amount, symbol=symbol
                )
                self.emit(account, event)

    def liquidate_where_due(self) -> None:
        """Liquidate, at current prices, every account whose equity is at or below its maintenance margin."""
        for account in self.accounts.values():
            if any(account.held()) and margin_excess(account, self.instruments, self.prices) <= 0:
                self.liquidate(account)

    def liquidate(self, account: Account) -> None:
        """Close everything at current prices without slippage, and charge the liquidation fee.

        All PnL is realized first; then each position's fee is charged, limited to what is left. A negative
        wallet is covered by the insurance fund.
        """
        for order in list(account.open_orders.values()):
            self.end_order(account, order, Status.EXPIRED, reason=EXPIRED_BY_LIQUIDATION)
        for algo in list(account.open_algo_orders.values()):
            self.end_algo(account, algo, AlgoStatus.EXPIRED, "Liquidation")
        closed = []
        for symbol in self.prices:
            position = account.positions.get(symbol)
            if position is None or not position.quantity:
                continue
            closed.append((position, self._auto_close(account, position)))
        self.emit_account(account, "ORDER", [position for position, _ in closed])
        charged = ZERO
        for position, trade in closed:
            fee = self.instruments[position.symbol].liquidation_fee * trade.quote_usdt
            fee = booked(min(fee, max(account.wallet_usdt, ZERO)))
            account.book_income("INSURANCE_CLEAR", -fee, position.symbol, self.clock_ms, trade.trade_id)
            charged += fee
        if charged:
            self.emit(
                account,
                events.account_update(account, self.clock_ms, "INSURANCE_CLEAR", balance_change=-charged),
            )
        self.cover_shortfall(account)

    def _auto_close(self, account: Account, position: Position) -> Trade:
        order_id = self.order_ids.next()
        order = Order(
            order_id=order_id,
            client_order_id=f"autoclose-{self.clock_ms}{order_id:03d}",
            symbol=position.symbol,
            side=Side.SELL if position.quantity > 0 else Side.BUY,
            type="MARKET",
            time_in_force="GTC",
            quantity=abs(position.quantity),
            price=ZERO,
            reduce_only=True,
            position_side="BOTH",
            working_type="CONTRACT_PRICE",
            time_ms=self.clock_ms,
            update_ms=self.clock_ms,
            orig_type="MARKET",
        )
        self.accept(account, order)
        price = booked(self.prices[position.symbol])
        trade = account.book_fill(order, order.quantity, price, ZERO, maker=False, time_ms=self.clock_ms)
        order.status = Status.FILLED
        account.close_order(order)
        self.emit_order(account, order, "CALCULATED", trade=trade)
        return trade

    def cover_shortfall(self, account: Account) -> None:
        """A flat account never owes: the insurance fund pays what is missing."""
        if account.wallet_usdt < 0 and not any(account.held()):
            missing = -account.wallet_usdt
            account.book_income("INSURANCE_CLEAR", missing, "", self.clock_ms)
            event = events.account_update(account, self.clock_ms, "INSURANCE_CLEAR", balance_change=missing)
            self.emit(account, event)
