"""The command behind `live.py --flatten`: asks, closes, and shows what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from envs.errors import ConfigError, ExchangeError
from live.bridge import LoopThread
from live.exchange.binance import BinanceExchange
from live.exchange.connection import ConnectionSettings
from live.flatten import FIRST_DELAY_S, TRIES, Action, Flattener, FlattenReport
from live.venues import AccountVenue

NOT_FLAT = 3


@dataclass(frozen=True)
class FlattenOptions:
    """What is closed, and who is asked.

    Attributes:
        account: at which exchange, with which key.
        symbols: only these; empty for all.
        connection: patience with the exchange.
        tries, first_delay_s: how often, and the pause before the second try.
        confirm: asked before real money; a no ends it.
    """

    account: AccountVenue
    symbols: tuple[str, ...] = ()
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)
    tries: int = TRIES
    first_delay_s: float = FIRST_DELAY_S
    confirm: Callable[[str], bool] = lambda _question: False


def run_flatten(options: FlattenOptions, console: Console) -> int:
    """Close an account and print what was done. Returns the exit code: 0 when it is flat, else 3.

    Raises:
        InputError: a symbol is unknown, the key is refused by its form, the account's mode is another, or the
            question was not answered with yes. Nothing was touched.
    """
    account = options.account
    exchange = options.connection.connector(account.venue, account.credentials, ())
    scope = ", ".join(options.symbols) or "every position, and cancelling every order,"
    console.print(f"closing {scope} at {account.description}", markup=False)
    with LoopThread() as bridge:
        try:
            bridge.call(exchange.connect())
            for symbol in options.symbols:
                bridge.call(exchange.check_symbol(symbol))
        except ExchangeError as error:
            bridge.call(exchange.close())
            console.print(f"NOT FLAT: nothing could be done: {error}", style="bold red", markup=False)
            return NOT_FLAT
        except BaseException:
            bridge.call(exchange.close())
            raise
        try:
            if account.venue.real_money:
                _confirm(options, exchange, bridge)
            flattener = Flattener(
                exchange,
                options.symbols,
                tries=options.tries,
                first_delay_s=options.first_delay_s,
                on_action=lambda action: _tell(console, action),
            )
            report = bridge.call(flattener.run())
        finally:
            bridge.call(exchange.close())
    _show(console, report, options.symbols)
    return 0 if report.flat else NOT_FLAT


def _confirm(options: FlattenOptions, exchange: BinanceExchange, bridge: LoopThread) -> None:
    try:
        positions = bridge.call(exchange.account()).positions.values()
    except ExchangeError as error:
        held = f"its positions cannot be read: {error}"
    else:
        chosen = [one for one in positions if not options.symbols or one.symbol in options.symbols]
        held = ", ".join(f"{one.quantity:f} {one.symbol}" for one in chosen) or "no position"
    scope = ", ".join(options.symbols) or "every position"
    question = f"This closes {scope} with REAL MONEY, at market, and cancels every order there: {held}."
    if not options.confirm(question):
        raise ConfigError("not confirmed: nothing was closed; give --yes to skip the question")


def _tell(console: Console, action: Action) -> None:
    text = f"[{action.attempt}] {action.symbol} {action.what}: {action.problem or action.result}"
    console.print(text, style="red" if action.problem else None, markup=False)


def _show(console: Console, report: FlattenReport, symbols: Sequence[str]) -> None:
    table = Table(title="what was done")
    for name in ("try", "symbol", "action", "result"):
        table.add_column(name)
    for action in report.actions:
        result = f"FAILED: {action.problem}" if action.problem else action.result
        table.add_row(str(action.attempt), action.symbol or "-", action.what, result)
    if report.actions:
        console.print(table)
    wallet = "" if report.wallet_usdt is None else f"; wallet {report.wallet_usdt:.2f} USDT"
    if report.flat:
        where = f" in {', '.join(symbols)}" if symbols else ""
        console.print(f"FLAT: no position and no order is left{where}{wallet}", markup=False)
        return
    left = [f"{quantity:f} {symbol}" for symbol, quantity in (report.positions or {}).items()]
    left += [f"order {order.client_order_id} ({order.symbol})" for order in report.orders or ()]
    if report.positions is None or report.orders is None:
        left.append("what else is there could not be read")
    text = f"NOT FLAT after {report.tries} tries: {', '.join(left)}{wallet}. Close it at the exchange."
    console.print(text, style="bold red", markup=False)
