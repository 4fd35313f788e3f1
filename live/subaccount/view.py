"""What every agent of a shared account has, read from the ledger and priced."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import func, select

from envs.account import ZERO, Fill
from envs.instruments import Instrument
from live.exchange.client_ids import parse_client_order_id
from live.ledger import Ledger
from live.ledger.arithmetic import exact
from live.ledger.positions import PositionState
from live.store import models
from live.subaccount.margin import Margins, margins
from live.subaccount.own_fills import OwnFills, RunInThread
from live.subaccount.settings import SharedAccountSettings


class AccountView:
    """Reads; changes nothing but its caches. What it reads from the database, it reads by `run`, off the event loop.

    Attributes:
        account: the exchange account's name in the ledger.
        instruments, prices: by symbol; prices are the newest known ones.
        leverage: each agent's own setting, by agent and symbol.
    """

    def __init__(
        self, ledger: Ledger, account: str, settings: SharedAccountSettings, run: RunInThread
    ) -> None:
        self._run = run
        self.ledger = ledger
        self.account = account
        self.settings = settings
        self.instruments: dict[str, Instrument] = {}
        self.prices: dict[str, Decimal] = {}
        self.leverage: dict[tuple[str, str], int] = {}
        self._own_fills: dict[tuple[str, str], OwnFills] = {}

    async def own_fills(self, agent: str, symbol: str) -> OwnFills:
        """An agent's fills in a symbol, as the ledger has them now."""
        found = self._own_fills.get((agent, symbol))
        if found is None:
            found = self._own_fills[agent, symbol] = OwnFills(
                self.ledger, self.account, agent, symbol, self._run
            )
        await found.refresh()
        return found

    def quantity(self, agent: str, symbol: str) -> Decimal:
        """An agent's signed position."""
        return self.ledger.position(self.account, agent, symbol).p1

    def positions(self, agent: str) -> dict[str, PositionState]:
        """An agent's open positions by symbol."""
        return {symbol: state for (_, symbol), state in self.ledger.positions(self.account, agent).items()}

    def wallet(self, agent: str) -> Decimal:
        """An agent's wallet."""
        return self.ledger.wallet(self.account, agent)

    def net(self, symbol: str) -> Decimal:
        """The account's net position, everybody's together."""
        return self.ledger.net_positions(self.account).get(symbol, ZERO)

    def leverages(self, agent: str) -> Mapping[str, int]:
        """An agent's leverage by symbol; 1 where none was set."""
        return {symbol: self.leverage.get((agent, symbol), 1) for symbol in self.instruments}

    def margins(self, agent: str) -> Margins:
        """An agent's margins at the newest prices."""
        return margins(
            self.wallet(agent), self.positions(agent), self.prices, self.instruments, self.leverages(agent)
        )

    def equity_usdt(self) -> Decimal:
        """Equity of the whole account: the exchange's wallet and the net positions' unrealized PnL."""
        total = self.ledger.booked_wallet(self.account)
        with exact():
            for book in self.ledger.books(self.account):
                if book.net_quantity:
                    total += book.net_quantity * self.prices[book.symbol] - book.net_cost
        return total

    def net_notional_usdt(self, change: tuple[str, Decimal] | None = None) -> Decimal:
        """Sum of the net positions' absolute notionals, with an order that is not there yet."""
        net = dict(self.ledger.net_positions(self.account))
        if change is not None:
            net[change[0]] = net.get(change[0], ZERO) + change[1]
        with exact():
            return sum((abs(q) * self.prices[s] for s, q in net.items() if q), ZERO)

    def capital_usdt(self) -> Decimal:
        """What was paid into the account less what was paid out."""
        return self.ledger.held.total_capital(self.account)

    def assignments(self, agent: str) -> int:
        """How often an agent was given capital, or had some taken back. Reads the database."""
        row = models.Transfer
        statement = (
            select(func.count())
            .select_from(row)
            .join(models.Account, models.Account.id == row.account_id)
            .join(models.Exchange, models.Exchange.id == models.Account.exchange_id)
            .where(models.Exchange.name == self.account, models.Account.name == agent)
        )
        with self.ledger.store.read() as connection:
            found: int = connection.execute(statement).scalar_one()
        return found

    def owner(self, fill: Fill) -> str:
        """The agent of a fill; empty when it belongs to none of this account."""
        return self.owner_of_id(fill.client_order_id)

    def owner_of_id(self, client_order_id: str) -> str:
        """The agent of an order; empty when it belongs to none of this account."""
        parsed = parse_client_order_id(client_order_id)
        return parsed.agent if parsed is not None and parsed.agent in self.settings.agents else ""
