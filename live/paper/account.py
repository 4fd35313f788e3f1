"""One account of the exchange: wallet, positions, orders, trades, income.

The account only books what happened; prices, margin and matching live elsewhere. At any moment
`wallet == transfers + sum(realized PnL) - sum(commission) + sum(funding) + sum(insurance)`, exactly, and
`wallet == cross wallet + sum(isolated wallets)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from envs.errors import ConfigError
from live.paper.money import ZERO, booked
from live.paper.orders import BOTH, LONG, SHORT, AlgoOrder, Income, MarginChange, Order, Trade
from live.paper.positions import Position

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


class Account:
    """State of one account. See the module's docstring for the invariant.

    Attributes:
        hedge_mode: LONG and SHORT positions beside each other (dual position side) instead of one BOTH.
        isolated_symbols: symbols under isolated margin; the others are cross margined.
        countdowns: by symbol the time at which its open orders are cancelled (countdownCancelAll), in ms.
        margin_called: keys of the margin groups whose owner was warned (MARGIN_CALL) and has not recovered.
        enlargements: fills so far that opened or enlarged a position.
    """

    def __init__(self, config: PaperAccount, account_id: int, time_ms: int) -> None:
        self.api_key = config.api_key
        self.secret = config.api_secret.encode()
        self.account_id = account_id
        self.wallet_usdt = ZERO
        self.positions: dict[tuple[str, str], Position] = {}
        self.leverage: dict[str, int] = {}
        self.hedge_mode = False
        self.isolated_symbols: set[str] = set()
        self.fee_burn = False
        self.orders: dict[int, Order] = {}
        self.open_orders: dict[int, Order] = {}
        self.algo_orders: dict[int, AlgoOrder] = {}
        self.open_algo_orders: dict[int, AlgoOrder] = {}
        self.triggered: dict[int, AlgoOrder] = {}
        self.countdowns: dict[str, int] = {}
        self.trades: dict[str, list[Trade]] = {}
        self.income: list[Income] = []
        self.margin_changes: list[MarginChange] = []
        self.margin_called: set[tuple[str, str]] = set()
        self.enlargements = 0
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

    @property
    def cross_wallet_usdt(self) -> Decimal:
        """The wallet without what is set aside for isolated positions."""
        if not self.isolated_symbols:
            return self.wallet_usdt
        return self.wallet_usdt - sum((p.isolated_wallet_usdt for p in self.positions.values()), ZERO)

    # --- positions ------------------------------------------------------------------------------------

    @property
    def sides(self) -> tuple[str, ...]:
        """Position sides of the account's mode."""
        return (LONG, SHORT) if self.hedge_mode else (BOTH,)

    def position(self, symbol: str, side: str = BOTH) -> Position:
        """The position of a symbol and side, made on first use."""
        found = self.positions.get((symbol, side))
        if found is None:
            found = self.positions[symbol, side] = Position(symbol, side)
        return found

    def positions_of(self, symbol: str) -> list[Position]:
        """The positions of a symbol in the account's mode."""
        return [self.position(symbol, side) for side in self.sides]

    def position_for(self, order: Order | AlgoOrder) -> Position:
        """The position that an order is about."""
        return self.position(order.symbol, order.position_side)

    def held(self) -> Iterator[Position]:
        """Positions that are not flat."""
        return (position for position in self.positions.values() if position.quantity)

    def is_isolated(self, symbol: str) -> bool:
        """Whether a symbol is under isolated margin."""
        return symbol in self.isolated_symbols

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

    def open_orders_of(self, symbol: str, side: str | None = None) -> list[Order]:
        """Open orders of a symbol, of one position side or all."""
        return [
            order
            for order in self.open_orders.values()
            if order.symbol == symbol and (side is None or order.position_side == side)
        ]

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

    def open_algo_orders_of(self, symbol: str, side: str | None = None) -> list[AlgoOrder]:
        """Waiting conditional orders of a symbol, of one position side or all."""
        return [
            algo
            for algo in self.open_algo_orders.values()
            if algo.symbol == symbol and (side is None or algo.position_side == side)
        ]

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

    def move_margin(self, position: Position, amount: Decimal, cause: str, time_ms: int) -> None:
        """Move cross wallet into an isolated position's wallet, or back when `amount` is negative."""
        if not amount:
            return
        position.isolated_wallet_usdt += amount
        position.update_ms = self.update_ms = time_ms
        self.margin_changes.append(MarginChange(position.symbol, position.side, amount, cause, time_ms))

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
        position = self.position_for(order)
        change = quantity * order.side.sign
        if position.closed_by(change) < quantity:
            self.enlargements += 1
        if self.is_isolated(order.symbol):
            moved = position.margin_moved_by(change, price, commission, self.leverage[order.symbol])
            self.move_margin(position, moved, "TRADE", time_ms)
        realized = position.apply(change, price, commission)
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
