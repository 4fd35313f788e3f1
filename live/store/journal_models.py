"""The tables beside the ledger: orders, decisions, equity over time, emergencies."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped

from live.store.base import (
    Base,
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
from live.store.models import SIDES

EQUITY_KINDS = ("STEP", "SYNC")
VERDICTS = ("ACCEPTED", "REDUCED", "REJECTED", "INVALID", "FAILED", "OVER_BUDGET")


class Order(Base):
    """Orders sent or seen, with the last status that is known."""

    __tablename__ = "orders"
    __table_args__ = (
        UniqueConstraint("exchange_id", "symbol", "order_id"),
        Index("ix_orders_client_order_id", "exchange_id", "client_order_id"),
        one_of("side", SIDES),
        not_negative("quantity"),
        not_negative("executed_quantity"),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    account_id: Mapped[int | None] = reference(
        "accounts", "Owner by the client order id; empty for a foreign one."
    )
    symbol: Mapped[str] = contract()
    order_id: Mapped[str] = identifier("The exchange's order id; `algo:` and its id for a trigger order.")
    client_order_id: Mapped[str] = text("Client order id.")
    side: Mapped[str] = text("`BUY` or `SELL`.", 4)
    type: Mapped[str] = text(
        "`MARKET`, `LIMIT`, `STOP_MARKET`, `TAKE_PROFIT_MARKET`, ...; empty where only its fills are known.",
        32,
    )
    quantity: Mapped[Decimal] = money("Quantity; 0 for one that closes the whole position.", "base")
    price: Mapped[Decimal | None] = money("Limit or trigger price.", "quote per base")
    reduce_only: Mapped[bool] = flag("Whether it can only shrink the position.")
    status: Mapped[str] = text(
        "The exchange's: `NEW`, `PARTIALLY_FILLED`, `FILLED`, `CANCELED`, ...; `GONE` where it no longer tells.",
        32,
    )
    executed_quantity: Mapped[Decimal] = money("Filled so far.", "base")
    reason: Mapped[str] = text("Why it was refused or expired.", None)
    created_ms: Mapped[int] = moment("When it was first seen.")
    updated_ms: Mapped[int] = moment("When its status was last seen.")


class DecisionRow(Base):
    """Decisions of language models: what was asked, what came back, what it cost, what became of it."""

    __tablename__ = "decisions"
    __table_args__ = (
        Index("ix_decisions_account", "account_id", "time_ms"),
        one_of("verdict", VERDICTS),
        not_negative("cost_usd"),
        CheckConstraint(
            "input_tokens >= 0 AND cached_tokens >= 0 AND output_tokens >= 0 AND latency_ms >= 0 AND calls >= 0",
            name="counts",
        ),
    )

    id: Mapped[int] = key()
    account_id: Mapped[int] = reference("accounts", "Agent.")
    time_ms: Mapped[int] = moment("Close of the candle that was decided on.")
    symbol: Mapped[str] = text("Contract that the decision names; empty for none.", 32)
    action: Mapped[str] = text("`OPEN_POSITION`, `CLOSE_POSITION` or `HOLD`: what was carried out.", 16)
    decision: Mapped[Any] = json_text(
        "The parsed decision, empty where it could not be parsed.", nullable=True
    )
    verdict: Mapped[str] = text("What became of it; all but `ACCEPTED` and `REDUCED` end in a hold.", 16)
    reason: Mapped[str] = text("The check, the limit or the error behind the verdict.", None)
    provider: Mapped[str] = text("Provider.")
    model: Mapped[str] = text("Model as the provider names it.", 128)
    template: Mapped[str] = text("Prompt template and version.", 128)
    prompt_hash: Mapped[str] = text("SHA-256 of the request.")
    prompt: Mapped[str | None] = text("The prompt, where it was kept.", None)
    reply: Mapped[str] = text("The reply as it came.", None)
    input_tokens: Mapped[int] = number("Tokens read, cached ones included.", "tokens")
    cached_tokens: Mapped[int] = number("Tokens read from the provider's cache.", "tokens")
    output_tokens: Mapped[int] = number("Tokens written.", "tokens")
    cost_usd: Mapped[Decimal] = money("Cost of all calls.", "USD")
    latency_ms: Mapped[int] = number("From the first request to the last reply.", "ms")
    calls: Mapped[int] = number("Requests sent; 0 when the replay cache answered.")
    client_order_id: Mapped[str] = text("Order that followed; empty for none.")


class EquityRow(Base):
    """The account over time, one row per step or sync."""

    __tablename__ = "equity"
    __table_args__ = (
        UniqueConstraint("account_id", "kind", "time_ms"),
        one_of("kind", EQUITY_KINDS),
    )

    id: Mapped[int] = key()
    account_id: Mapped[int] = reference("accounts", "Whose.")
    time_ms: Mapped[int] = moment("When it was marked.")
    wallet_usdt: Mapped[Decimal] = money("Wallet.")
    unrealized_usdt: Mapped[Decimal] = money("Unrealized PnL.")
    equity_usdt: Mapped[Decimal] = money("Wallet and unrealized PnL.")
    peak_usdt: Mapped[Decimal] = money("Highest equity that drawdown is measured from.")
    drawdown_fraction: Mapped[Decimal] = money("1 - equity / peak.", "fraction")
    initial_margin_usdt: Mapped[Decimal | None] = money("Initial margin; empty in a sync's row.")
    maintenance_margin_usdt: Mapped[Decimal | None] = money("Maintenance margin; empty in a sync's row.")
    kind: Mapped[str] = text("What wrote it: `STEP` of a run, or `SYNC` of positions.", 8)


class EmergencyRow(Base):
    """Runs of the emergency protocol, and who acknowledged them."""

    __tablename__ = "emergencies"
    __table_args__ = (
        UniqueConstraint("exchange_id", "account_id", "time_ms"),
        CheckConstraint("tries >= 0", name="counts"),
    )

    id: Mapped[int] = key()
    exchange_id: Mapped[int] = exchange_reference()
    account_id: Mapped[int | None] = reference("accounts", "Whose; empty for the whole exchange account.")
    time_ms: Mapped[int] = moment("Close of the candle that it ran at.")
    reason: Mapped[str] = text("Why it ran.", None)
    drawdown_fraction: Mapped[Decimal] = money("Drawdown then.", "fraction")
    limit_fraction: Mapped[Decimal | None] = money("Limit that was broken.", "fraction")
    peak_usdt: Mapped[Decimal] = money("Peak equity.")
    equity_before_usdt: Mapped[Decimal] = money("Equity before it ran.")
    equity_after_usdt: Mapped[Decimal] = money("Equity as it was last read back.")
    tries: Mapped[int] = number("How often it tried to get flat.")
    succeeded: Mapped[bool] = flag("Whether the account was flat and without orders in the end.")
    failures: Mapped[Any] = json_text("Errors of the tries that ended in one.")
    acknowledged_ms: Mapped[int | None] = moment("When somebody acknowledged it; empty until then.")
