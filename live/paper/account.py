"""One account of the exchange: wallet, positions, orders, trades, income.

The account only books what happened; prices, margin and matching live elsewhere. At any moment
`wallet == transfers + sum(realized PnL) - sum(commission) + sum(funding) + sum(insurance)`, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from envs.errors import ConfigError
from live.paper.money import ZERO, booked
from live.paper.orders import AlgoOrder, Income, Order, Trade

DEFAULT_LEVERAGE = 20


@dataclass(frozen=True, slots=True)
class PaperAccount:
    """Credentials and opening balance of one account. The secret never shows in a repr."""

    api_key: str = "paper"
    api_secret: str = field(default="paper", repr=False)
    wallet_usdt: Decimal = Decimal(10_000)

    def __post_init__(self) -> None:
        if not self.api_key or not self.api_secret:
            raise ConfigError("a paper account needs an API key and a secret; give both")
        if not self.wallet_usdt.is_finite() or self.wallet_usdt < 0:
            raise ConfigError(f"wallet_usdt is {self.wallet_usdt}; it must be a number >= 0")


@dataclass(slots=True)
class Position:
    """A position in one-way mode. `quantity` is signed; all zero when flat.

    `quote_flow_usdt` (minus what was bought, plus what was sold) and `fees_usdt` run since it was last flat
    and give the break-even price.
    """

    symbol: str
    quantity: Decimal = ZERO
    entry_price: Decimal = ZERO
    quote_flow_usdt: Decimal = ZERO
    fees_usdt: Decimal = ZERO
    realized_usdt: Decimal = ZERO
    update_ms: int = 0

    @property
    def break_even_price(self) -> Decimal:
        """Price at which closing would return what was paid, opening fees included; 0 when flat."""
        if not self.quantity:
            return ZERO
        return booked((self.fees_usdt - self.quote_flow_usdt) / self.quantity)

    def unrealized_pnl(self, price: Decimal) -> Decimal:
        """quantity * (price - entry), in USDT."""
        return self.quantity * (price - self.entry_price)

    def reduces(self, change: Decimal) -> bool:
        """Whether a signed change only makes the position smaller (closing it included)."""
        return self.quantity * change < 0 and abs(change) <= abs(self.quantity)

    def apply(self, change: Decimal, price: Decimal, commission: Decimal) -> Decimal:
        """Book a fill of a signed quantity. Returns the realized PnL before the commission, in USDT."""
        held = self.quantity
        after = held + change
        realized = ZERO
        if held * change >= 0:
            self.entry_price = booked((held * self.entry_price + change * price) / after)
            self.quote_flow_usdt -= change * price
            self.fees_usdt += commission
        elif abs(change) <= abs(held):
            realized = booked(-change * (price - self.entry_price))
            self.quote_flow_usdt -= change * price
            self.fees_usdt += commission
            if not after:
                self.entry_price = self.quote_flow_usdt = self.fees_usdt = ZERO
        else:
            realized = booked(held * (price - self.entry_price))
            self.entry_price = price
            self.quote_flow_usdt = -after * price
            self.fees_usdt = booked(commission * abs(after / change))
        self.quantity = after
        self.realized_usdt += realized
        return realized


class Account:
    """State of one account. See the module's docstring for the invariant."""

    def __init__(self, config: PaperAccount, account_id: int, time_ms: int) -> None:
        self.api_key = config.api_key
        self.secret = config.api_secret.encode()
        self.account_id = account_id
        self.wallet_usdt = ZERO
        self.positions: dict[str, Position] = {}
        self.leverage: dict[str, int] = {}
        self.orders: dict[int, Order] = {}
        self.open_orders: dict[int, Order] = {}
        self.algo_orders: dict[int, AlgoOrder] = {}
        self.open_algo_orders: dict[int, AlgoOrder] = {}
        self.trades: dict[str, list[Trade]] = {}
        self.income: list[Income] = []
        self.update_ms = time_ms
        self._orders_by_client_id: dict[str, Order] = {}
        self._algo_by_client_id: dict[str, AlgoOrder] = {}
        if config.wallet_usdt:
            self.book_income("TRANSFER", config.wallet_usdt, "", time_ms)

    def __repr__(self) -> str:
        return f"Account({self.account_id}, wallet_usdt={self.wallet_usdt})"

    @property
    def alias(self) -> str:
        """Binance's account alias, a short opaque name."""
        return f"Paper{self.account_id}"

    def position(self, symbol: str) -> Position:
        """The position of a symbol, made on first use."""
        found = self.positions.get(symbol)
        if found is None:
            found = self.positions[symbol] = Position(symbol)
        return found

    def held(self) -> Iterator[Position]:
        """Positions that are not flat."""
        return (position for position in self.positions.values() if position.quantity)

    # --- orders ---------------------------------------------------------------------------------------

    def add_order(self, order: Order) -> None:
        """Keep a new open order."""
        self.orders[order.order_id] = order
        self.open_orders[order.order_id] = order
        self._orders_by_client_id[order.client_order_id] = order

    def close_order(self, order: Order) -> None:
        """Take an order that reached a terminal status out of the open ones."""
        self.open_orders.pop(order.order_id, None)

    def find_order(self, order_id: int | None, client_order_id: str | None) -> Order | None:
        """By order id, else the newest with that client order id."""
        if order_id is not None:
            return self.orders.get(order_id)
        return self._orders_by_client_id.get(client_order_id or "")

    def add_algo_order(self, algo: AlgoOrder) -> None:
        """Keep a new conditional order."""
        self.algo_orders[algo.algo_id] = algo
        self.open_algo_orders[algo.algo_id] = algo
        self._algo_by_client_id[algo.client_algo_id] = algo

    def close_algo_order(self, algo: AlgoOrder) -> None:
        """Take a conditional order that no longer waits out of the open ones."""
        self.open_algo_orders.pop(algo.algo_id, None)

    def find_algo_order(self, algo_id: int | None, client_algo_id: str | None) -> AlgoOrder | None:
        """By algo id, else the newest with that client id."""
        if algo_id is not None:
            return self.algo_orders.get(algo_id)
        return self._algo_by_client_id.get(client_algo_id or "")

    # --- booking --------------------------------------------------------------------------------------

    def book_income(
        self, income_type: str, amount: Decimal, symbol: str, time_ms: int, trade_id: int | None = None
    ) -> None:
        """Change the wallet by `amount` USDT and keep the income row. A zero amount leaves no row."""
        if not amount:
            return
        self.wallet_usdt += amount
        self.update_ms = time_ms
        self.income.append(Income(income_type, amount, symbol, time_ms, len(self.income) + 1, trade_id))

    def book_fill(
        self,
        order: Order,
        quantity: Decimal,
        price: Decimal,
        commission: Decimal,
        *,
        maker: bool,
        time_ms: int,
    ) -> Trade:
        """Book one fill of `order`: position, wallet, income and trade."""
        position = self.position(order.symbol)
        realized = position.apply(quantity * order.side.sign, price, commission)
        position.update_ms = time_ms
        trades = self.trades.setdefault(order.symbol, [])
        quote = booked(quantity * price)
        trade = Trade(
            trade_id=len(trades) + 1,
            order=order,
            symbol=order.symbol,
            side=order.side,
            quantity=quantity,
            price=price,
            quote_usdt=quote,
            commission_usdt=commission,
            realized_pnl_usdt=realized,
            maker=maker,
            time_ms=time_ms,
        )
        trades.append(trade)
        order.executed_quantity += quantity
        order.cumulative_quote += quote
        order.update_ms = time_ms
        self.book_income("REALIZED_PNL", realized, order.symbol, time_ms, trade.trade_id)
        self.book_income("COMMISSION", -commission, order.symbol, time_ms, trade.trade_id)
        return trade
