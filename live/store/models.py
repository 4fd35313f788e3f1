"""The ledger's tables: what the exchange booked (never edited), and what is folded from it (rebuilt at will).

Booked: exchanges, accounts, fills, funding, transfers, sync_cursors. Folded: books, snapshots, positions,
allocations, transactions. `live.store.journal_models` has the tables beside the ledger.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped

from live.store.base import (
    Base,
    above_zero,
    contract,
    exchange_reference,
    flag,
    identifier,
    json_text,
    key,
    moment,
    money,
    not_negative,
    number,
    one_of,
    reference,
    text,
)

SIDES = ("BUY", "SELL")
POSITION_SIDES = ("LONG", "SHORT")
EXIT_REASONS = (
    "TP_HIT", "SL_HIT", "SIGNAL", "PROTECTIVE_STOP", "EMERGENCY", "LIQUIDATION", "ADL", "MANUAL",
)  # fmt: skip
INCOME_KINDS = ("FUNDING", "CLEARANCE")
TRANSFER_KINDS = ("DEPOSIT", "CAPITAL")


class Exchange(Base):
    """A real account at an exchange: trade ids are unique within it. A real sub-account is a row of its own."""

    __tablename__ = "exchanges"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = key()
    name: Mapped[str] = text("Name, e.g. `testnet` or `live:sub1`.")


class Account(Base):
    """Who owns positions on an exchange account: an agent, or `MANUAL`, which owns what no agent does."""

    __tablename__ = "accounts"
    __table_args__ = (
        UniqueConstraint("exchange_id", "name"),
        CheckConstraint("name <> ''", name="name_given"),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    name: Mapped[str] = text("Agent, as in its client order ids, or `MANUAL`.")


class Fill(Base):
    """Executions, as the exchange reports them. Rows are never changed, but for an owner that was not known yet."""

    __tablename__ = "fills"
    __table_args__ = (
        UniqueConstraint("exchange_id", "symbol", "trade_id"),
        Index("ix_fills_book", "exchange_id", "symbol", "time_ms"),
        Index("ix_fills_account", "account_id", "time_ms"),
        one_of("side", SIDES),
        above_zero("quantity"),
        above_zero("price"),
        CheckConstraint("time_ms > 0", name="time_ms_above_zero"),
        CheckConstraint("symbol <> '' AND trade_id <> ''", name="key_given"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    symbol: Mapped[str] = contract()
    trade_id: Mapped[str] = identifier("The exchange's trade id.")
    order_id: Mapped[str] = identifier("The exchange's order id.")
    client_order_id: Mapped[str] = text("Client order id; empty where the exchange forgot it.")
    account_id: Mapped[int | None] = reference(
        "accounts", "Owner by the client order id; empty for a foreign fill, which `allocations` shares out."
    )
    side: Mapped[str] = text("`BUY` or `SELL`.", 4)
    quantity: Mapped[Decimal] = money("Quantity, above zero.", "base")
    price: Mapped[Decimal] = money("Price.", "quote per base")
    quote_quantity: Mapped[Decimal] = money("Quantity times price.", "quote")
    commission: Mapped[Decimal] = money("Commission; above zero when it costs.", "commission asset")
    commission_asset: Mapped[str] = text("Asset that the commission was paid in.", 16)
    realized_pnl: Mapped[Decimal] = money("Realized PnL on the net position, as the exchange reports it.")
    maker: Mapped[bool] = flag("Whether the fill added liquidity.")
    time_ms: Mapped[int] = moment("Time of the trade.")


class Funding(Base):
    """Funding, and what liquidations cost beside the trades, as booked on the exchange account's net position."""

    __tablename__ = "funding"
    __table_args__ = (
        UniqueConstraint("exchange_id", "kind", "symbol", "time_ms", "transaction_id"),
        one_of("kind", INCOME_KINDS),
        CheckConstraint("time_ms > 0", name="time_ms_above_zero"),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    kind: Mapped[str] = text("`FUNDING`, or `CLEARANCE` (Binance's INSURANCE_CLEAR).", 16)
    symbol: Mapped[str] = text("Contract; empty where the exchange names none.", 32)
    time_ms: Mapped[int] = moment("Time of the settlement.")
    transaction_id: Mapped[str] = identifier("The exchange's transaction id.")
    amount_usdt: Mapped[Decimal] = money("Received (above zero) or paid (below zero).")
    rate: Mapped[Decimal | None] = money("Funding rate, where known.", "fraction")
    mark_price: Mapped[Decimal | None] = money("Mark price at the settlement, where known.", "quote per base")


class Transfer(Base):
    """Capital that came to an account or left it. Never changed: a correction is another transfer."""

    __tablename__ = "transfers"
    __table_args__ = (
        UniqueConstraint("exchange_id", "transaction_id", "account_id"),
        one_of("kind", TRANSFER_KINDS),
        CheckConstraint("CAST(amount_usdt AS DOUBLE PRECISION) <> 0", name="amount_not_zero"),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    account_id: Mapped[int] = reference("accounts", "Whose wallet it moves.")
    kind: Mapped[str] = text(
        "`DEPOSIT` from or to the world; `CAPITAL` from one account to another: its two rows add up to zero.",
        16,
    )
    transaction_id: Mapped[str] = identifier("The exchange's transaction id, or the name of the assignment.")
    amount_usdt: Mapped[Decimal] = money("Into the wallet (above zero) or out of it (below zero).")
    time_ms: Mapped[int] = moment("When.")
    note: Mapped[str] = text("Why, for people.", None)


class SyncCursor(Base):
    """How far each stream of the exchange's history has been read; moves in the transaction that writes the rows."""

    __tablename__ = "sync_cursors"

    exchange_id: Mapped[int] = exchange_reference(primary_key=True)
    stream: Mapped[str] = text("What is read: `fills`, `funding`, `transfers`, ...", 32, primary_key=True)
    symbol: Mapped[str] = text("Contract; empty for a stream over all.", 32, primary_key=True)
    position: Mapped[str] = identifier("Last id that was read; empty for none.")
    time_ms: Mapped[int] = moment("Everything up to here has been read.")


class Book(Base):
    """One contract on one exchange account: counts its entries, and tells writers of each other."""

    __tablename__ = "books"
    __table_args__ = (CheckConstraint("fills >= 0 AND income >= 0 AND version >= 0", name="counts"),)

    exchange_id: Mapped[int] = exchange_reference(primary_key=True)
    symbol: Mapped[str] = text("Contract; empty for income that names none.", 32, primary_key=True)
    version: Mapped[int] = number("Counts the changes.")
    fills: Mapped[int] = number("How many fills there are.")
    income: Mapped[int] = number("How many rows of `funding` there are.")
    rules: Mapped[int] = number("Version of the rules by which its folded tables were made.")


class Snapshot(Base):
    """A book folded up to a moment, so that a start needs to fold only what came after it."""

    __tablename__ = "snapshots"
    __table_args__ = (
        UniqueConstraint("exchange_id", "symbol", "time_ms"),
        ForeignKeyConstraint(["exchange_id", "symbol"], ["books.exchange_id", "books.symbol"]),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = number("Exchange account (`exchanges.id`).")
    symbol: Mapped[str] = contract()
    time_ms: Mapped[int] = moment("Holds every entry up to and with this millisecond.")
    events: Mapped[int] = number("How many entries it holds.")
    net_quantity: Mapped[Decimal] = money("Net position over all accounts.", "base")
    net_cost: Mapped[Decimal] = money("Signed entry value of the net position.", "quote")
    net_realized: Mapped[Decimal] = money(
        "PnL realized on the net position, without the exchange's rounding."
    )
    net_fees: Mapped[Decimal] = money("Commission in USDT as the exchange booked it.")
    net_income: Mapped[Decimal] = money("Funding and clearance as the exchange booked them.")
    reported_realized: Mapped[Decimal] = money("Sum of the realized PnL that the exchange reported.")
    liquidated: Mapped[Any] = json_text("Shares of the accounts in the last liquidation.")


class Position(Base):
    """One account's position in a snapshot, with its totals since the first fill and those of its round trip."""

    __tablename__ = "positions"
    __table_args__ = (
        not_negative("p1_fee"),
        CheckConstraint("fills >= 0 AND trip_fills >= 0", name="counts"),
    )

    snapshot_id: Mapped[int] = reference(
        "snapshots", "Snapshot that it belongs to.", primary_key=True, ondelete="CASCADE"
    )
    account_id: Mapped[int] = reference("accounts", "Owner.", primary_key=True)
    p1: Mapped[Decimal] = money("Change in base since last flat (+ bought): the signed quantity.", "base")
    p2: Mapped[Decimal] = money("Change in quote since last flat (- bought).", "quote")
    p1_fee: Mapped[Decimal] = money("Commission in the base asset since last flat.", "base")
    p2_fee: Mapped[Decimal] = money("Commission in the quote asset since last flat.", "quote")
    cost: Mapped[Decimal] = money(
        "Signed entry value of the open quantity; entry price = cost / p1.", "quote"
    )
    realized: Mapped[Decimal] = money("Realized PnL before fees, in all.")
    fees: Mapped[Decimal] = money("Commission in the quote asset, in all.")
    funding: Mapped[Decimal] = money("Funding, in all.")
    clearance: Mapped[Decimal] = money(
        "Liquidation fees (below zero) and what an insurance fund paid, in all."
    )
    cash: Mapped[Decimal] = money("Change in quote by trades, in all: realized = cash + cost.", "quote")
    volume: Mapped[Decimal] = money("Quote quantity traded, in all.", "quote")
    other_fees: Mapped[Any] = json_text("Commission in other assets, in all.")
    fills: Mapped[int] = number("Fills, in all.")
    opened_ms: Mapped[int] = moment("When the round trip began; 0 when flat.")
    opened_by: Mapped[str] = identifier("Trade id that began it; empty when flat.")
    entry_quantity: Mapped[Decimal] = money("Quantity of the trip's opening fills.", "base")
    entry_quote: Mapped[Decimal] = money("Quote quantity of the trip's opening fills.", "quote")
    exit_quantity: Mapped[Decimal] = money("Quantity of the trip's closing fills.", "base")
    exit_quote: Mapped[Decimal] = money("Quote quantity of the trip's closing fills.", "quote")
    trip_realized: Mapped[Decimal] = money("Realized PnL of the trip.")
    trip_funding: Mapped[Decimal] = money("Funding of the trip.")
    trip_clearance: Mapped[Decimal] = money("Liquidation fees of the trip.")
    trip_fills: Mapped[int] = number("Fills of the trip.")


class Allocation(Base):
    """Who bore which part of an entry that no client order id gives to one account: foreign fills and income."""

    __tablename__ = "allocations"
    __table_args__ = (
        Index("ix_allocations_book", "exchange_id", "symbol", "time_ms"),
        Index("ix_allocations_account", "account_id", "time_ms"),
        one_of("kind", ("FILL", *INCOME_KINDS)),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    symbol: Mapped[str] = text("Contract; empty where the exchange names none.", 32)
    account_id: Mapped[int] = reference("accounts", "Who bears it.")
    kind: Mapped[str] = text("`FILL`, `FUNDING` or `CLEARANCE`.", 16)
    reference: Mapped[str] = identifier("Trade id of the fill, or transaction id of the income.")
    time_ms: Mapped[int] = moment("Time of the entry.")
    quantity: Mapped[Decimal] = money("Part of the fill, signed (+ bought); 0 for income.", "base")
    amount: Mapped[Decimal] = money("Part of the commission, or of the income.", "asset of the entry")


class Transaction(Base):
    """Round trips: from flat, or from a flip, to the next. Folded from the fills; an open one has no exit."""

    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("account_id", "symbol", "entry_trade_id"),
        ForeignKeyConstraint(
            ["exchange_id", "symbol", "entry_trade_id"],
            ["fills.exchange_id", "fills.symbol", "fills.trade_id"],
        ),
        Index("ix_transactions_book", "exchange_id", "symbol", "exit_ms"),
        one_of("side", POSITION_SIDES),
        one_of("exit_reason", ("", *EXIT_REASONS)),
        above_zero("quantity"),
        CheckConstraint("exit_ms IS NULL OR exit_ms >= entry_ms", name="exit_after_entry"),
        CheckConstraint("(exit_ms IS NULL) = (exit_reason = '')", name="exit_has_reason"),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    account_id: Mapped[int] = reference("accounts", "Owner.")
    symbol: Mapped[str] = contract()
    side: Mapped[str] = text("`LONG` or `SHORT`.", 5)
    entry_ms: Mapped[int] = moment("First opening fill.")
    entry_trade_id: Mapped[str] = identifier("Trade id of the first opening fill.")
    exit_ms: Mapped[int | None] = moment("Last closing fill; empty while open.")
    exit_trade_id: Mapped[str] = identifier("Trade id of the last closing fill; empty while open.")
    exit_reason: Mapped[str] = text("Why it ended; empty while open.", 16)
    quantity: Mapped[Decimal] = money("Quantity of all opening fills.", "base")
    open_quantity: Mapped[Decimal] = money("What is still open, signed; 0 when closed.", "base")
    entry_price: Mapped[Decimal] = money("Average over the opening fills, rounded.", "quote per base")
    exit_price: Mapped[Decimal | None] = money("Average over the closing fills, rounded.", "quote per base")
    open_cost: Mapped[Decimal] = money("Signed entry value of what is still open.", "quote")
    entry_quote: Mapped[Decimal] = money("Quote quantity of all opening fills.", "quote")
    exit_quote: Mapped[Decimal] = money("Quote quantity of all closing fills.", "quote")
    realized: Mapped[Decimal] = money("Realized PnL before fees and funding.")
    fees: Mapped[Decimal] = money("Commission in the quote asset.")
    funding: Mapped[Decimal] = money("Funding.")
    clearance: Mapped[Decimal] = money("Liquidation fees.")
    fills: Mapped[int] = number("How many fills it has.")
    last_price: Mapped[Decimal | None] = money("Last price that an open one was marked at.", "quote per base")
    last_price_ms: Mapped[int | None] = moment("When that was.")
    unrealized: Mapped[Decimal | None] = money("Unrealized PnL at the last price; empty when closed.")
