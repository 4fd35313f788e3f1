"""What happens by the clock: orders good till a date, and countdowns that cancel a symbol's orders.

In lock-step they are due by feed time: one that ends inside a candle acts before that candle is played, because
an order cannot be counted on for only a part of it.
"""

from __future__ import annotations

from live.paper.account import Account
from live.paper.desk import cancel_all, instrument_of
from live.paper.engine import Engine
from live.paper.orders import AlgoOrder, AlgoStatus, Order, Status

Due = tuple[int, Account, Order | AlgoOrder | str]


def set_countdown(engine: Engine, account: Account, symbol: str, countdown_ms: int) -> None:
    """Cancel a symbol's open orders `countdown_ms` from now, unless this is called again; 0 takes it back."""
    instrument_of(engine, symbol)
    if countdown_ms:
        account.countdowns[symbol] = engine.clock_ms + countdown_ms
    else:
        account.countdowns.pop(symbol, None)


def run_timers(engine: Engine, until_ms: int) -> None:
    """Let everything happen that is due by `until_ms`, in order of time, and set the clock to the last of it."""
    while True:
        due = min(
            (one for one in _timers(engine) if one[0] <= until_ms), key=lambda one: one[0], default=None
        )
        if due is None:
            return
        time_ms, account, what = due
        engine.clock_ms = max(engine.clock_ms, time_ms)
        if isinstance(what, Order):
            engine.end_order(account, what, Status.EXPIRED)
        elif isinstance(what, AlgoOrder):
            engine.end_algo(account, what, AlgoStatus.EXPIRED)
        else:
            del account.countdowns[what]
            cancel_all(engine, account, what)


def _timers(engine: Engine) -> list[Due]:
    found: list[Due] = []
    for account in engine.accounts.values():
        found += [(time_ms, account, symbol) for symbol, time_ms in account.countdowns.items()]
        waiting: list[Order | AlgoOrder] = [
            *account.open_orders.values(),
            *account.open_algo_orders.values(),
        ]
        found += [(one.good_till_ms, account, one) for one in waiting if one.good_till_ms]
    return found
