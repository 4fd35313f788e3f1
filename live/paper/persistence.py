"""An exchange's state in a file, so that the exchange can be restarted.

The file is a journal of JSON lines: a header that says which market it belongs to, then one line per batch of
changes (what a request, an advance or a price set off): the accounts, orders, trades and income rows that are
new or different, the clock and the place in the feed. A line is written before the reply to the request and
before any event of the batch leaves the process. So a process killed at any instruction loses at most what nobody
has heard of; a torn last line is dropped. The line goes to the operating system, not to the disk: a killed
process loses nothing, a power failure may lose the last seconds.

At the start the journal is folded and written anew as one line (to a file beside it, then moved into place).
Listen keys, subscriptions and rate-limit counters are not kept. API secrets never enter the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.errors import ConfigError
from envs.market import Market
from envs.time_grid import format_time
from live.paper.account import Account
from live.paper.orders import AlgoOrder, AlgoStatus, Income, MarginChange, Order, Trade
from live.paper.records import Json, dump, dump_account, load, load_account
from live.paper.source import LiveFeed

if TYPE_CHECKING:
    from live.paper.exchange import PaperExchange

FORMAT = "perpgym paper exchange"
VERSION = 2


class StateFile:
    """The open journal of one exchange. Only one process can have it open."""

    def __init__(self, path: Path, lock: BufferedRandom) -> None:
        self.path = path
        self._lock = lock
        self._file = -1
        self._saved_accounts: dict[str, str] = {}
        self._saved_counts: dict[tuple[str, str], int] = {}
        self._saved_place: Json = {}

    @classmethod
    def open(cls, path: Path, exchange: PaperExchange) -> StateFile:
        """Open the state of an exchange, made if it is not there, and put it into the exchange.

        Raises:
            ConfigError: another process has it, it cannot be read or written, or it belongs to another market or
                other accounts.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(path.name + ".lock").open("a+b")
        except OSError as problem:
            raise ConfigError(f"cannot write {path}: {problem}; give another --state file") from problem
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConfigError(f"another exchange is running on {path}; give another --state file") from None
        state = cls(path, lock)
        try:
            if path.exists():
                header, records = _read(path)
                _check(path, header, exchange)
                _restore(path, records, exchange)
            state._rewrite(exchange)
        except BaseException:
            state.close()
            raise
        return state

    def save(self, exchange: PaperExchange, *, always: bool = False) -> None:
        """Append what has changed. Prices and the clock alone are worth a line only with `always`."""
        record = self._changes(exchange)
        place = _place(exchange)
        moved = any(
            place[name] != self._saved_place.get(name) for name in ("index", "between", "inside", "settled")
        )
        if record or moved or always:
            self._append({**record, **place})
            self._saved_place = place

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.close()

    def _rewrite(self, exchange: PaperExchange) -> None:
        """Write the whole state as a header and one line, and go on behind it."""
        engine = exchange.engine
        for account in engine.accounts.values():
            engine.changed_orders |= {order.order_id: (account, order) for order in account.orders.values()}
            engine.changed_algos |= {algo.algo_id: (account, algo) for algo in account.algo_orders.values()}
        fresh = self.path.with_name(self.path.name + ".new")
        self._file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._append(_header(exchange))
        self.save(exchange, always=True)
        os.fsync(self._file)
        fresh.replace(self.path)

    def _append(self, record: Json) -> None:
        line = memoryview(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        while line:
            line = line[os.write(self._file, line) :]

    def _changes(self, exchange: PaperExchange) -> Json:
        """The rows that are new or different since the last save, by account."""
        engine = exchange.engine
        changes: dict[str, Json] = {}

        def of(account: Account) -> Json:
            return changes.setdefault(account.api_key, {})

        for account, order in engine.changed_orders.values():
            of(account).setdefault("orders", []).append(dump(order))
        for account, algo in engine.changed_algos.values():
            of(account).setdefault("algos", []).append(dump(algo))
        for account in engine.accounts.values():
            state = dump_account(account)
            text = json.dumps(state)
            if self._saved_accounts.get(account.api_key) != text:
                self._saved_accounts[account.api_key] = text
                of(account)["account"] = state
            for name, rows in _lists(account):
                saved = self._saved_counts.get((account.api_key, name), 0)
                if len(rows) > saved:
                    self._saved_counts[account.api_key, name] = len(rows)
                    of(account)[name] = [dump(row) for row in rows[saved:]]
        return {"changes": changes} if changes else {}


def read_open_ms(path: Path) -> int | None:
    """Open time of the candle that a saved exchange stood at; None without a file."""
    records = _read(path)[1] if path.exists() else []
    return int(records[-1]["open_ms"]) if records else None


def read_header(path: Path) -> Json | None:
    """What a state file says of its market: `feed`, with `synthetic` and `first_open_ms`; None without a file.

    Raises:
        ConfigError: it is no state file.
    """
    return _read(path)[0] if path.exists() else None


def _lists(account: Account) -> Iterator[tuple[str, list[Any]]]:
    """An account's rows that only ever grow, by name."""
    for symbol, trades in account.trades.items():
        yield f"trades {symbol}", trades
    yield "income", account.income
    yield "margin_changes", account.margin_changes


def _place(exchange: PaperExchange) -> Json:
    """Where the exchange stands: clock, feed, prices, counters."""
    engine = exchange.engine
    return {
        "clock_ms": engine.clock_ms,
        "index": exchange.index,
        "open_ms": exchange.history.open_time_ms(exchange.index),
        "between": exchange.between,
        "inside": exchange.inside_booked,
        "real_time": exchange.real_time,
        "settled": dict(exchange.settled_ms),
        "prices": {symbol: str(price) for symbol, price in engine.prices.items()},
        "marks": {symbol: str(price) for symbol, price in engine.marks.items()},
        "ids": [engine.order_ids.last, engine.algo_ids.last, engine.amendment_ids.last],
        "liquidity": engine.liquidity.dump(),
    }


def _header(exchange: PaperExchange) -> Json:
    market = exchange.feed.market
    if isinstance(exchange.feed, LiveFeed):
        # What the market does between two starts is the source's business; this exchange catches up with it.
        followed = {"symbols": list(market.symbols), "interval_ms": market.interval_ms, "follows": True}
        return {"format": FORMAT, "version": VERSION, "feed": followed}
    return {
        "format": FORMAT,
        "version": VERSION,
        "feed": {
            "symbols": list(market.symbols),
            "interval_ms": market.interval_ms,
            "first_open_ms": int(market.open_time_ms[0]),
            "candles": len(market),
            "synthetic": market.synthetic,
            "sha256": _digest(market),
        },
    }


def _digest(market: Market) -> str:
    """Hash of everything that moves prices and funding."""
    found = hashlib.sha256()
    for values in (market.open, market.high, market.low, market.close, market.volume):
        found.update(values.tobytes())
    for values in (market.funding_open, market.funding_inner):
        found.update(values.tobytes())
    return found.hexdigest()


def _read(path: Path) -> tuple[Json, list[Json]]:
    """Header and records. A last line without an end was being written when the process died."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
        rows = [json.loads(line) for line in lines]
    except OSError as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from problem
    except ValueError as problem:
        raise ConfigError(f"{path} is damaged: {problem}; remove it to start anew") from None
    if not rows or not isinstance(rows[0], dict) or rows[0].get("format") != FORMAT:
        raise ConfigError(f"{path} is no state file of a paper exchange; give another --state file")
    if rows[0].get("version") != VERSION:
        raise ConfigError(
            f"{path} has version {rows[0].get('version')}, this program reads {VERSION}; remove it to start anew"
        )
    return rows[0], rows[1:]


def _check(path: Path, header: Json, exchange: PaperExchange) -> None:
    """Refuse the state of another market: prices, positions and history would not fit."""
    theirs, ours = header["feed"], _header(exchange)["feed"]
    for name, value in {**dict.fromkeys(ours), **theirs}.items():
        if value != ours.get(name):
            shown = (value, ours.get(name))
            if name == "first_open_ms" and None not in shown:
                shown = (format_time(value), format_time(ours[name]))
            raise ConfigError(
                f"{path} belongs to another market: its {name} is {shown[0]}, here it is {shown[1]}; "
                f"give the market that it was made with, or another --state file"
            )


def _restore(path: Path, records: list[Json], exchange: PaperExchange) -> None:
    """Fold the records into an exchange: of each thing the last that was said of it."""
    engine = exchange.engine
    folded: dict[str, Json] = {}
    for record in records:
        for api_key, change in record.get("changes", {}).items():
            _fold(folded.setdefault(api_key, {"orders": {}, "algos": {}}), change)
    unknown = set(folded) - set(engine.accounts)
    if unknown:
        raise ConfigError(
            f"{path} has an account with the API key {sorted(unknown)[0]!r}, which is not given here; give it, "
            f"or another --state file"
        )
    for api_key, state in folded.items():
        _restore_account(engine.accounts[api_key], state)
    if not records:
        return
    place = records[-1]
    engine.clock_ms = place["clock_ms"]
    index = place["index"]
    if isinstance(exchange.feed, LiveFeed):
        index = exchange.history.index_of(place["open_ms"])
    exchange.resume(index, between=place["between"], inside_booked=place["inside"])
    exchange.settled_ms = dict(place["settled"])
    if not isinstance(exchange.feed, LiveFeed):
        exchange.real_time = place["real_time"]
    engine.prices = {symbol: Decimal(text) for symbol, text in place["prices"].items()}
    engine.marks = {symbol: Decimal(text) for symbol, text in place["marks"].items()}
    engine.order_ids.last, engine.algo_ids.last, engine.amendment_ids.last = place["ids"]
    engine.liquidity.load(place["liquidity"])


def _fold(state: Json, change: Json) -> None:
    for name, value in change.items():
        if name == "account":
            state["account"] = value
        elif name == "orders":
            state["orders"].update({row["order_id"]: row for row in value})
        elif name == "algos":
            state["algos"].update({row["algo_id"]: row for row in value})
        else:
            state.setdefault(name, []).extend(value)


def _restore_account(account: Account, state: Json) -> None:
    account.income.clear()
    for _, row in sorted(state["orders"].items()):
        order = load(Order, row)
        account.add_order(order)
        if not order.is_open:
            account.close_order(order)

    def order_of(order_id: int) -> Order:
        return account.orders[order_id]

    for _, row in sorted(state["algos"].items()):
        algo = load(AlgoOrder, row, order_of)
        account.add_algo_order(algo)
        if not algo.is_open:
            account.close_algo_order(algo)
        if algo.status is AlgoStatus.TRIGGERED and algo.order is not None:
            account.triggered[algo.order.order_id] = algo
    for name, rows in state.items():
        if name.startswith("trades "):
            account.trades[name.partition(" ")[2]] = [load(Trade, row, order_of) for row in rows]
    account.income += [load(Income, row) for row in state.get("income", [])]
    account.margin_changes += [load(MarginChange, row) for row in state.get("margin_changes", [])]
    load_account(account, state["account"])
