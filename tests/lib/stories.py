"""Do the step logs of a run and the exchange tell the same story, and was it one of a run that kept to its rules?"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path

from live_support import Scripted, rows_of

from envs.account import ZERO, ActionType, Leg
from live.exchange.base import parse_client_order_id
from live.paper.account import Account

AGENT = Scripted.name
_OURS_ONCE = frozenset({Leg.ORDER, Leg.EMERGENCY})

Row = dict[str, str]


def leg_of(client_id: str) -> Leg | None:
    """Which leg of this run an order is; None for those of others."""
    parsed = parse_client_order_id(client_id)
    return parsed.leg if parsed is not None and parsed.agent == AGENT else None


def whole_rows(folder: Path) -> list[Row]:
    """All rows, of which none is torn."""
    rows = rows_of(folder)
    assert all(None not in row and None not in row.values() for row in rows), "torn rows"
    return rows


def has_whole_step(folder: Path, symbols: Sequence[str]) -> bool:
    """Whether some step has its row of each symbol."""
    seen: dict[str, set[str]] = {}
    for row in rows_of(folder):
        if None not in row.values() and row["action"] and row["action_type"] != ActionType.END:
            seen.setdefault(row["timestamp"], set()).add(row["symbol"])
    return any(found >= set(symbols) for found in seen.values())


def wallet_at(account: Account, close_ms: int) -> Decimal:
    """The exchange's wallet without the funding settled after a close."""
    later = (i for i in account.income if i.income_type == "FUNDING_FEE" and i.time_ms > close_ms)
    return Decimal(account.wallet_usdt) - sum((one.amount_usdt for one in later), ZERO)


def check_fills(
    account: Account, rows: Sequence[Row], symbol: str, optional: Collection[tuple[str, str]]
) -> None:
    """Every fill of the exchange is in exactly one row, as it was; those of `optional` may be missing."""
    mine = [row for row in rows if row["symbol"] == symbol]
    logged = Counter(trade for row in mine for trade in row["trade_id"].split(";") if trade)
    traded = {str(trade.trade_id): trade for trade in account.trades.get(symbol, [])}
    assert set(logged.values()) <= {1}, f"{symbol}: a fill is logged twice: {logged}"
    missing = set(traded) - set(logged) - {trade for one, trade in optional if one == symbol}
    assert not missing, f"{symbol}: fills {missing} are in no row"
    assert set(logged) <= set(traded), f"{symbol}: fills {set(logged) - set(traded)} are not the exchange's"
    for row in mine:
        fills = [traded[trade] for trade in row["trade_id"].split(";") if trade]
        quantity = sum((fill.quantity for fill in fills), ZERO)
        assert Decimal(row["quantity"] or 0) == quantity, f"{row} has other quantities than {fills}"
        if row["action_type"] != ActionType.LIQUIDATION:  # which is charged a fee beside its trades
            commission = sum((fill.commission_usdt for fill in fills), ZERO)
            assert Decimal(row["commission"] or 0) == commission, f"{row} has another commission than {fills}"


def check_end(account: Account, rows: Sequence[Row], symbol: str) -> None:
    """The last row of a symbol has the exchange's position and wallet."""
    mine = [row for row in rows if row["symbol"] == symbol]
    steps = [int(row["step"]) for row in mine]
    assert steps == sorted(steps), f"{symbol}: steps out of order: {steps}"
    last, held = mine[-1], account.position(symbol).quantity
    sign = -1 if last["position_side"] == "SHORT" else 1
    assert sign * Decimal(last["position_quantity"]) == held, f"{symbol}: {last}, held {held}"
    # Funding settled with the open of the next candle counts once orders were done after it.
    wallets = {account.wallet_usdt, wallet_at(account, int(last["timestamp"]))}
    assert Decimal(last["balance"]) in wallets, f"{symbol}: {last}, wallets {wallets}"


def check_nothing_twice(account: Account, rows: Sequence[Row], symbols: Sequence[str]) -> None:
    """No candle was decided on twice, and no order was sent twice."""
    # A step that a kill left without a row for each symbol is decided on again, under another number.
    steps_of: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["action"]:
            steps_of.setdefault((row["timestamp"], row["step"]), set()).add(row["symbol"])
    decided = Counter(time for (time, _), seen in steps_of.items() if len(seen) == len(symbols))
    assert max(decided.values(), default=0) <= 1, f"decided twice on {decided.most_common(1)}"
    ids = Counter(
        order.client_order_id
        for order in account.orders.values()
        if leg_of(order.client_order_id) in _OURS_ONCE
    )
    assert max(ids.values(), default=0) <= 1, f"sent twice: {ids.most_common(2)}"


class LoggedDrawdown:
    """The drawdown rule by what the step logs say, whoever wrote them: at the limit a run has halted.

    A row is written once its step is over, so that by then the halt is stored, even where the process died next.

    Args:
        limit: the largest drawdown as a fraction; None for none.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = None if limit is None else Decimal(str(limit))
        self._peak = ZERO
        self._read: set[Path] = set()

    def acknowledge(self) -> None:
        """A halt was put away: the drawdown counts anew."""
        self._peak = ZERO

    def check(self, folder: Path, *, halted: bool) -> None:
        """Look at the logs that are new."""
        for path in sorted(set(folder.glob("steps_*.csv")) - self._read):
            self._read.add(path)
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if None not in row.values() and row["action"] and row["action_type"] != ActionType.END:
                        self._look_at(row, halted=halted)

    def _look_at(self, row: Row, *, halted: bool) -> None:
        equity = Decimal(row["equity"])
        self._peak = max(self._peak, equity)
        if self._limit is not None and 1 - equity / self._peak >= self._limit:
            assert halted, f"a drawdown of {1 - equity / self._peak:.4%}, but no halt: {row}"
