"""The exchange's core: accounts, prices, fills, funding. Synchronous; no I/O and no clock.

Somebody else moves time and prices (`live.paper.play`), turns requests into orders (`live.paper.desk`), sets
conditional orders off (`live.paper.triggers`) and liquidates (`live.paper.closing`). What the accounts' owners
should hear of is appended to `outbox`, in order.

Orders fill at the last price, margin goes by the mark price. They are the same unless `marks` says otherwise:
recorded candles hold one price series, and the simulator marks by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from envs.account import Side
from envs.errors import ConfigError
from envs.instruments import Instrument
from live.paper import events
from live.paper.account import DEFAULT_LEVERAGE, Account, PaperAccount
from live.paper.liquidity import Liquidity
from live.paper.margin import has_margin, order_notionals
from live.paper.money import ONE, ZERO, booked
from live.paper.orders import AlgoOrder, AlgoStatus, Order, Status, Trade
from live.paper.positions import Position

# Why an order expired: the `er` field of ORDER_TRADE_UPDATE.
EXPIRED_BY_IOC = 2
EXPIRED_BY_REDUCTION = 4
EXPIRED_BY_LIQUIDATION = 5
EXPIRED_UNFILLED = 9
FIRST_ALGO_ID = 3_000_000_000


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How orders fill.

    Attributes:
        instruments: trading rules by symbol.
        slippage_bps: moves every taker fill against the taker, in 1/100 of a percent.
        default_leverage: of a new account's symbols, where the instrument allows it.
        max_fill_quantity: by symbol, how much one account can trade in one candle (paced feeds: at one price),
            in base units; a symbol that is missing has no limit.
        liquidity_share: the same as a fraction of the candle's volume (paced feeds: of the price's share of
            it); None for no limit.
    """

    instruments: Mapping[str, Instrument]
    slippage_bps: Decimal = ZERO
    default_leverage: int = DEFAULT_LEVERAGE
    max_fill_quantity: Mapping[str, Decimal] = field(default_factory=dict)
    liquidity_share: Decimal | None = None

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ConfigError("a paper exchange needs at least one instrument")
        if not ZERO <= self.slippage_bps < 10_000:
            raise ConfigError(f"slippage_bps is {self.slippage_bps}; it must be from 0 to below 10000")
        if self.liquidity_share is not None and not ZERO < self.liquidity_share <= ONE:
            raise ConfigError(f"liquidity_share is {self.liquidity_share}; it must be above 0 and at most 1")
        for symbol, quantity in self.max_fill_quantity.items():
            if symbol not in self.instruments:
                raise ConfigError(f"max_fill_quantity names {symbol}, which is not traded here")
            if not quantity > 0:
                raise ConfigError(f"max_fill_quantity of {symbol} is {quantity}; it must be above 0")


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
    """All accounts, and the prices at which they trade. `clock_ms` is the exchange's time.

    `marks` holds mark prices where they differ from the last price. `changed_orders` and `changed_algos` are
    what changed since somebody cleared them, by id.
    """

    settings: EngineSettings
    clock_ms: int
    prices: dict[str, Decimal]
    marks: dict[str, Decimal] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    outbox: list[tuple[Account, events.Event]] = field(default_factory=list)
    order_ids: Sequence = field(default_factory=Sequence)
    # Far from the order ids, as on Binance: ccxt keeps both kinds in one table by their number.
    algo_ids: Sequence = field(default_factory=lambda: Sequence(FIRST_ALGO_ID))
    amendment_ids: Sequence = field(default_factory=Sequence)
    liquidity: Liquidity = field(default_factory=Liquidity)
    partial_fill: PartialFill | None = None
    changed_orders: dict[int, tuple[Account, Order]] = field(default_factory=dict)
    changed_algos: dict[int, tuple[Account, AlgoOrder]] = field(default_factory=dict)

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """Trading rules by symbol."""
        return self.settings.instruments

    @property
    def mark_prices(self) -> dict[str, Decimal]:
        """Mark price of every symbol."""
        return {**self.prices, **self.marks} if self.marks else self.prices

    def mark(self, symbol: str) -> Decimal:
        """Mark price of one symbol."""
        return self.marks.get(symbol, self.prices[symbol])

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
            return [quantity] if quantity else []
        step = self.instruments[symbol].step_size
        steps = int(max(step, quantity * partial.share) // step)
        count = min(partial.pieces, steps)
        each, over = divmod(steps, count)
        return [(each + (index < over)) * step for index in range(count)]

    def commission(self, symbol: str, quantity: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """quantity * price * rate, in USDT."""
        instrument = self.instruments[symbol]
        return booked(quantity * price * (instrument.maker_fee if maker else instrument.taker_fee))

    def renew_liquidity(self, volumes: Mapping[str, Decimal]) -> None:
        """Begin a price event with so much volume (base units) by symbol; see `EngineSettings`."""
        limits = dict(self.settings.max_fill_quantity)
        share = self.settings.liquidity_share
        if share is not None:
            for symbol, volume in volumes.items():
                part = volume * share
                limits[symbol] = min(part, limits[symbol]) if symbol in limits else part
        self.liquidity.renew(
            {symbol: self.instruments[symbol].round_quantity(limit) for symbol, limit in limits.items()}
        )

    # --- events ---------------------------------------------------------------------------------------

    def emit(self, account: Account, event: events.Event) -> None:
        """Queue an event for the owner of an account."""
        self.outbox.append((account, event))

    def emit_order(
        self, account: Account, order: Order, execution: str, *, trade: Trade | None = None, reason: int = 0
    ) -> None:
        """Queue ORDER_TRADE_UPDATE for an order's present state."""
        self.changed_orders[order.order_id] = (account, order)
        bids, asks = order_notionals(account.open_orders_of(order.symbol, order.position_side))
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
        self.changed_algos[algo.algo_id] = (account, algo)
        self.emit(account, events.algo_update(self.instruments[algo.symbol], algo, self.clock_ms))

    def emit_account(
        self,
        account: Account,
        reason: str,
        positions: Iterable[Position] = (),
        *,
        balance_change: Decimal | None = None,
        symbol: str | None = None,
    ) -> None:
        """Queue ACCOUNT_UPDATE with the given positions at mark prices."""
        rows = [(p, self.mark(p.symbol), self.instruments[p.symbol]) for p in positions]
        event = events.account_update(
            account, self.clock_ms, reason, positions=rows, balance_change=balance_change, symbol=symbol
        )
        self.emit(account, event)

    # --- orders ---------------------------------------------------------------------------------------

    def accept(self, account: Account, order: Order) -> None:
        """Put a checked order on the books."""
        account.add_order(order)
        self.emit_order(account, order, "NEW")

    def fillable(self, account: Account, order: Order) -> Decimal:
        """How much of an order can fill now: what only reduces never more than the position, and no more than
        the liquidity of the moment.
        """
        quantity = order.remaining
        if order.only_reduces:
            held = account.position_for(order).quantity
            quantity = min(quantity, abs(held)) if held * order.side.sign < 0 else ZERO
        return self.liquidity.available(account.account_id, order.symbol, quantity)

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
        self.liquidity.use(account.account_id, order.symbol, amount)
        order.status = Status.PARTIALLY_FILLED if order.remaining else Status.FILLED
        if not order.remaining:
            account.close_order(order)
        self.emit(account, events.trade_lite(self.instruments[order.symbol], trade))
        self.emit_order(account, order, "TRADE", trade=trade)
        position = account.position_for(order)
        self.emit_account(account, "ORDER", [position])
        if not position.quantity:
            self._expire_with_position(account, position)
        self.expire_superfluous(account, position)
        if not order.is_open:
            self._finish_algo(account, order)
        return trade

    def fill_resting(self, account: Account, order: Order, quantity: Decimal | None = None) -> Trade | None:
        """Fill a resting LIMIT order at its price, as a maker: all of it, or at most `quantity`.

        Returns None when nothing could fill: no liquidity, or nothing to reduce (then the order expires).
        """
        possible = self.fillable(account, order)
        if quantity is not None:
            possible = min(possible, quantity)
        if possible:
            return self.fill(account, order, order.price, maker=True, quantity=possible)
        self.expire_superfluous(account, account.position_for(order))
        return None

    def end_order(self, account: Account, order: Order, status: Status, *, reason: int = 0) -> None:
        """Cancel or expire what is left of an open order."""
        order.status = status
        order.update_ms = self.clock_ms
        account.close_order(order)
        self.emit_order(account, order, status.value, reason=reason)
        self._finish_algo(account, order)

    def end_algo(self, account: Account, algo: AlgoOrder, status: AlgoStatus, reason: str = "") -> None:
        """Cancel, expire, reject or finish a conditional order."""
        algo.status = status
        algo.reason = reason
        algo.update_ms = self.clock_ms
        account.close_algo_order(algo)
        self.emit_algo(account, algo)

    def expire_superfluous(self, account: Account, position: Position) -> None:
        """Expire resting orders that only reduce and have nothing left to reduce.

        The position is given to them by priority, the nearest price first, then the oldest; an order that
        gets no part of it is pushed out.
        """
        if not account.open_orders:
            return
        left = abs(position.quantity)
        for order in by_priority(account, position):
            if not left or position.quantity * order.side.sign > 0:
                self.end_order(account, order, Status.EXPIRED, reason=EXPIRED_BY_REDUCTION)
            else:
                left -= min(left, order.remaining)

    def can_afford(
        self, account: Account, position: Position, change: Decimal, price: Decimal, *, maker: bool = False
    ) -> bool:
        """Whether the margin allows a signed change at `price`. What only reduces is always allowed."""
        if position.reduces(change):
            return True
        commission = self.commission(position.symbol, abs(change), price, maker=maker)
        return has_margin(account, self.mark_prices, position, change, price, commission)

    def _finish_algo(self, account: Account, order: Order) -> None:
        """A conditional order is finished when the order that its trigger made has ended."""
        algo = account.triggered.pop(order.order_id, None)
        if algo is not None:
            self.end_algo(account, algo, AlgoStatus.FINISHED)

    def _expire_with_position(self, account: Account, position: Position) -> None:
        """GTE_GTC orders live only while there is a position."""
        for algo in account.open_algo_orders_of(position.symbol, position.side):
            if algo.time_in_force == "GTE_GTC":
                self.end_algo(account, algo, AlgoStatus.EXPIRED, "Position closed")

    # --- funding --------------------------------------------------------------------------------------

    def book_funding(self, per_unit: Mapping[str, Decimal]) -> None:
        """Charge funding: payment = -quantity * per_unit, `per_unit` being the sum of rate * mark in USDT."""
        for symbol, amount_per_unit in per_unit.items():
            if not amount_per_unit:
                continue
            for account in self.accounts.values():
                for position in [p for p in account.held() if p.symbol == symbol]:
                    self._book_funding_of(account, position, amount_per_unit)

    def _book_funding_of(self, account: Account, position: Position, amount_per_unit: Decimal) -> None:
        amount = booked(-position.quantity * amount_per_unit)
        account.book_income("FUNDING_FEE", amount, position.symbol, self.clock_ms)
        isolated = account.is_isolated(position.symbol)
        if isolated:
            position.isolated_wallet_usdt += amount
        self.emit_account(
            account,
            "FUNDING_FEE",
            [position] if isolated else [],
            balance_change=amount,
            symbol=position.symbol,
        )


def by_priority(account: Account, position: Position) -> list[Order]:
    """Open orders that may only reduce a position: the nearest price first, then the oldest."""
    orders = [o for o in account.open_orders_of(position.symbol, position.side) if o.only_reduces]
    return sorted(orders, key=lambda order: (order.side.sign * -order.price, order.order_id))
