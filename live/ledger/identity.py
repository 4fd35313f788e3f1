"""The identities between the agents' accounts and the exchange's, and what it means when one fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from live.ledger.arithmetic import ZERO, exact
from live.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Identity:
    """The books of one exchange account against what the exchange says. Every figure is exact.

    Attributes:
        wallets: of the agents and MANUAL.
        booked_wallet: what the ledger says that the exchange's wallet holds: transfers + reported realized PnL -
            commission + funding and clearance as the exchange booked them.
        exchange_wallet: what the exchange says; None when it was not asked.
        entry_difference: entry value of the net positions less that of the accounts' own: by this much do opposite
            positions and different entry prices part the wallets' sum from the exchange's wallet. 0 when all is flat.
        quantities: net quantity by symbol, by the ledger.
        exchange_quantities: by the exchange; None when it was not asked.
        rounding: what the exchange's roundings of realized PnL added up to; part of MANUAL's wallet.
    """

    wallets: Mapping[str, Decimal]
    booked_wallet: Decimal
    exchange_wallet: Decimal | None
    entry_difference: Decimal
    quantities: Mapping[str, Decimal]
    exchange_quantities: Mapping[str, Decimal] | None
    rounding: Decimal

    @property
    def wallet_error(self) -> Decimal:
        """Sum of the wallets + entry difference - booked wallet: 0, or the ledger contradicts itself."""
        with exact():
            return sum(self.wallets.values(), ZERO) + self.entry_difference - self.booked_wallet

    @property
    def missing_usdt(self) -> Decimal:
        """What the exchange's wallet holds that no entry explains: 0, or entries are missing."""
        with exact():
            return ZERO if self.exchange_wallet is None else self.exchange_wallet - self.booked_wallet

    @property
    def missing_quantities(self) -> dict[str, Decimal]:
        """Where the exchange's position is another one, and by how much."""
        if self.exchange_quantities is None:
            return {}
        with exact():
            differences = {
                symbol: self.exchange_quantities.get(symbol, ZERO) - self.quantities.get(symbol, ZERO)
                for symbol in {*self.quantities, *self.exchange_quantities}
            }
        return {symbol: differences[symbol] for symbol in sorted(differences) if differences[symbol]}

    @property
    def holds(self) -> bool:
        """Whether everything agrees to the last unit."""
        return not (self.wallet_error or self.missing_usdt or self.missing_quantities)


def check_identity(
    ledger: Ledger,
    exchange: str,
    *,
    exchange_wallet: Decimal | None = None,
    exchange_quantities: Mapping[str, Decimal] | None = None,
) -> Identity:
    """Compare the accounts with each other and, where given, with the exchange's wallet and net positions.

    For any prices m, whatever is open:

        sum of (wallet + unrealized at m) = booked wallet + sum over symbols of (net quantity * m - net entry value)

    The quantities cancel, since the accounts' quantities add up to the net one, which leaves `wallet_error == 0`.
    """
    held = ledger.held  # of one moment, whatever is recorded meanwhile
    books = held.books(exchange)
    wallets = held.wallets(exchange)
    booked = held.booked_wallet(exchange)
    difference = ZERO
    rounding = ZERO
    with exact():
        for book in books:
            own = sum((state.cost for state in book.positions.values()), ZERO)
            difference += book.net_cost - own
            rounding += book.rounding
    return Identity(
        wallets=wallets,
        booked_wallet=booked,
        exchange_wallet=exchange_wallet,
        entry_difference=difference,
        quantities=held.net_positions(exchange),
        exchange_quantities=exchange_quantities,
        rounding=rounding,
    )
