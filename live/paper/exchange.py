"""The running exchange: an engine, a market that moves it, and the streams that tell of it.

Lock-step state machine. At rest the clock stands at `o`, the open time of the next candle k; candle k-1 is
closed, the last price is open_k, funding at `o` has been booked on the positions held then, and liquidation
at the open was checked. Orders fill at open_k. `advance` then

1. lets end what ends by the clock within candle k and books the funding inside it, 2. plays candle k and sends
its user events, at the close time, 3. sends the closed kline of every symbol, 4. moves to open_{k+1}: funding at
the boundary, liquidation check, LIMIT orders that the open has jumped over.

After the last candle the price stays at its close and the clock at the open time of the candle that is not
there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from envs.candles import interval_name
from envs.instruments import Instrument, default_instruments, get_instruments
from envs.market import Market
from live.paper import market_events, market_streams
from live.paper.account import PaperAccount
from live.paper.auth import TimeRules
from live.paper.closing import cover_shortfall, liquidate_where_due, warn_where_due
from live.paper.engine import Engine, EngineSettings
from live.paper.errors import ApiError
from live.paper.feeds import ReplayFeed
from live.paper.history import Forming, MarketHistory
from live.paper.limits import LimitSettings
from live.paper.money import exact
from live.paper.persistence import StateFile
from live.paper.play import fill_crossed_limits, jump_prices, move_prices, play_candle
from live.paper.source import LiveFeed, MarketSource
from live.paper.streams import Hub
from live.paper.timers import run_timers


@dataclass(frozen=True, slots=True)
class Step:
    """Outcome of an advance, as the control route answers it."""

    clock_ms: int
    index: int
    remaining: int

    def as_json(self) -> dict[str, Any]:
        """`done` is true when no candle is left."""
        return {
            "clock": self.clock_ms,
            "index": self.index,
            "remaining": self.remaining,
            "done": self.remaining == 0,
        }


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """How far the exchange's clock is off, and since when (feed time, monotonic seconds)."""

    offset_ms: int
    since_ms: int
    since_s: float


class PaperExchange:
    """One exchange over one feed. Synchronous: whoever runs it calls from one thread.

    `liquidity_share` and `max_fill_quantity` limit how much fills at once; see `EngineSettings`. `state` is a
    file that the exchange's state is kept in; if it is there, the exchange goes on from it.
    """

    def __init__(
        self,
        feed: ReplayFeed,
        accounts: Iterable[PaperAccount] = (PaperAccount(),),
        *,
        slippage_bps: Decimal = Decimal(0),
        instruments: Mapping[str, Instrument] | None = None,
        limits: LimitSettings | None = None,
        liquidity_share: Decimal | None = None,
        max_fill_quantity: Mapping[str, Decimal] | None = None,
        state: Path | None = None,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if instruments is None and isinstance(feed, LiveFeed):
            instruments = feed.instruments
        table = default_instruments() if instruments is None else instruments
        rules = {one.symbol: one for one in get_instruments(feed.market.symbols, table)}
        self.feed = feed
        self.history = MarketHistory(feed.market, feed.marks)
        self.interval = interval_name(feed.market.interval_ms)
        self.index = feed.start_index
        self.hub = Hub(monotonic_s)
        settings = EngineSettings(
            rules,
            slippage_bps,
            max_fill_quantity=max_fill_quantity or {},
            liquidity_share=liquidity_share,
        )
        self.engine = Engine(settings, feed.start_ms, {})
        self.between = False
        self.inside_booked = False
        self.resumed = False
        # By symbol the time of the funding last charged, where the market is another's.
        self.settled_ms: dict[str, int] = {}
        self.forming: dict[str, Forming] = {}
        self.limit_settings = LimitSettings() if limits is None else limits
        self.tape = market_streams.Tape()
        self.on_candle: Callable[[], None] | None = None
        self._skew: ClockSkew | None = None
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._started_s = monotonic_s()
        self.real_time = feed.starts_now(int(wall_s() * 1000))
        self._paced_now: Callable[[], int] | None = None
        for account in accounts:
            self.engine.add_account(account)
        self._enter_candle()
        self._state = None if state is None else StateFile.open(state, self)
        if self.between and self.lock_step:
            self.open_candle()
        market_streams.remember_books(self)
        market_streams.recall_trades(self)
        self.flush()

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols traded here."""
        return self.feed.market.symbols

    @property
    def remaining(self) -> int:
        """Candles not yet played."""
        return len(self.history) - self.index

    @property
    def lock_step(self) -> bool:
        """Whether time moves only by `advance`."""
        return self.feed.speed is None

    @property
    def now_ms(self) -> int:
        """Feed time."""
        return self.engine.clock_ms if self._paced_now is None else self._paced_now()

    @property
    def server_ms(self) -> int:
        """Feed time as the exchange's clock shows it: off by the clock fault where there is one."""
        return self.now_ms + (0 if self._skew is None else self._skew.offset_ms)

    def skew_clock(self, offset_ms: int) -> None:
        """Put the clock that clients ask for, and that timestamps are judged by, off by `offset_ms`."""
        self._skew = ClockSkew(offset_ms, self.now_ms, self._monotonic_s()) if offset_ms else None

    def follow_clock(self, now_ms: Callable[[], int]) -> None:
        """Take feed time from a pacer between the engine's own steps."""
        self._paced_now = now_ms

    def tick(self) -> None:
        """Bring the engine's clock up to feed time, before a request is served."""
        self.run_timers(self.now_ms)

    def run_timers(self, until_ms: int) -> None:
        """Let end what ends by the clock, and set the engine's clock to `until_ms` unless it is further."""
        run_timers(self.engine, until_ms)
        self.engine.clock_ms = max(self.engine.clock_ms, until_ms)

    def resume(self, index: int, *, between: bool, inside_booked: bool) -> None:
        """Stand where a saved state stood: at this candle, or between the one before and its open."""
        self.index = index
        self.between = between
        self.inside_booked = inside_booked
        self.resumed = True
        if between or not self.remaining:
            self.forming = {}
        else:
            self._begin_forming()

    @property
    def source(self) -> MarketSource | None:
        """Whom the market is followed from, where it is another's and grows."""
        return self.feed.source if isinstance(self.feed, LiveFeed) else None

    def grow(self, market: Market) -> None:
        """Take a market that has become longer."""
        self.feed = replace(self.feed, market=market)
        self.history = MarketHistory(market, self.feed.marks)

    def close(self) -> None:
        """Save what is left to save and let go of the state file."""
        if self._state is not None:
            self._state.save(self, always=True)
            self._state.close()
            self._state = None

    def time_rules(self) -> TimeRules:
        """What request timestamps are judged by at this moment."""
        now_s = self._monotonic_s()
        rules = TimeRules(
            now_ms=self.now_ms,
            start_ms=self.feed.start_ms,
            wall_ms=int(self._wall_s() * 1000),
            wall_elapsed_ms=int((now_s - self._started_s) * 1000),
            real_time=self.real_time,
        )
        skew = self._skew
        if skew is None:
            return rules
        return rules.skewed(skew.offset_ms, skew.since_ms, int((now_s - skew.since_s) * 1000))

    def state(self) -> dict[str, Any]:
        """What `/paper/state` answers."""
        step = Step(self.now_ms, self.index, self.remaining)
        return {
            **step.as_json(),
            "speed": self.feed.speed,
            "lock_step": self.lock_step,
            "symbols": list(self.symbols),
            "interval": self.interval,
            "synthetic": self.feed.market.synthetic,
            "follows": None if self.source is None else self.source.rest_url,
        }

    # --- lock-step ------------------------------------------------------------------------------------

    def advance(self) -> Step:
        """Play the next candle in lock-step.

        Raises:
            ApiError: the feed is paced, so that time is not the caller's to move.
        """
        if not self.lock_step:
            raise ApiError(-1130, "This exchange runs by the clock; only a lock-step exchange is advanced.")
        if self.remaining:
            self.book_funding_inside()
            self.run_timers(self.close_ms)
            play_candle(self.engine, self.history.candle(self.index))
            self.end_candle()
            self.open_candle()
        return Step(self.engine.clock_ms, self.index, self.remaining)

    # --- the parts of a candle, used by the pacer too -------------------------------------------------

    @property
    def close_ms(self) -> int:
        """Close time of the candle being played: its last millisecond."""
        return self.history.open_time_ms(self.index) + self.feed.market.interval_ms - 1

    def book_funding_inside(self) -> None:
        """Book what the present candle has of funding strictly inside it."""
        funding = self.history.funding_inside(self.index)
        if funding and not self.inside_booked:
            self.run_timers(self.history.funding_time_inside(self.index))
            self.engine.book_funding(funding)
        self.inside_booked = True

    def move_to(self, prices: Mapping[str, Decimal], share: float) -> None:
        """Move prices in straight lines, with `share` of the candle's volume, and tell the streams."""
        self.run_timers(self.engine.clock_ms)
        self._renew_liquidity(share)
        move_prices(self.engine, prices)
        row = self.feed.market.volume[self.index]
        for column, symbol in enumerate(self.symbols):
            volume = float(row[column]) * share
            self.forming[symbol].trade(float(prices[symbol]), volume)
            market_streams.publish_trade(self, symbol, prices[symbol], volume)
        self.flush()
        for symbol in self.symbols:
            market_events.publish_tick(self, symbol)
        market_streams.publish_tick(self)

    def retrace(self, prices: Mapping[str, Decimal], share: float) -> None:
        """Let the forming candle have seen prices from before a restart."""
        row = self.feed.market.volume[self.index]
        for column, symbol in enumerate(self.symbols):
            self.forming[symbol].trade(float(prices[symbol]), float(row[column]) * share)

    def end_candle(self) -> None:
        """Close the present candle: user events first, then every symbol's closed kline."""
        self.index += 1
        self.between = True
        self.inside_booked = False
        self.flush()
        closed_ms = self.history.open_time_ms(self.index - 1)
        self.forming = {}
        for symbol in self.symbols:
            market_events.publish_closed(self, symbol, closed_ms)
            if self.lock_step:
                market_streams.publish_candle(self, symbol, self.index - 1)

    def open_candle(self) -> None:
        """Move to the next candle's open: funding at the boundary, liquidation, crossed LIMIT orders."""
        self._enter_candle()
        self.between = False
        self.run_timers(self.engine.clock_ms)
        if self.remaining:
            self.engine.book_funding(self.history.funding_at_open(self.index))
        liquidate_where_due(self.engine)
        if self.lock_step:
            # Triggers that the gap jumped over wait for the candle to play, as in the simulator.
            fill_crossed_limits(self.engine)
        else:
            jump_prices(self.engine, self.engine.prices)
        for account in self.engine.accounts.values():
            cover_shortfall(self.engine, account)
        warn_where_due(self.engine)
        self.flush()
        for symbol in self.symbols:
            market_events.publish_tick(self, symbol)
        market_streams.publish_tick(self)
        if self.on_candle is not None:
            self.on_candle()

    def flush(self) -> None:
        """Save what has changed, then send what the engine has to tell the accounts' owners."""
        if self._state is not None:
            self._state.save(self)
        self.engine.changed_orders.clear()
        self.engine.changed_algos.clear()
        if self.engine.outbox:
            outbox, self.engine.outbox = self.engine.outbox, []
            self.hub.send_to_accounts(outbox)
            market_streams.publish_liquidations(self, outbox)

    def _enter_candle(self) -> None:
        open_ms = self.history.open_time_ms(self.index)
        if self.source is not None:
            # The clock runs by itself there, and marks come from the source.
            open_ms = max(open_ms, self.engine.clock_ms)
        else:
            self.engine.marks = {}
        self.engine.clock_ms = open_ms
        if self.remaining:
            self.engine.prices = self.history.opens(self.index)
            self._begin_forming()
            if self.lock_step:
                self._renew_liquidity(1.0)
        else:
            self.engine.prices = self.history.closes(self.index - 1)
            self.forming = {}

    def _begin_forming(self) -> None:
        open_ms = self.history.open_time_ms(self.index)
        row = self.feed.market.open[self.index].tolist()
        self.forming = {
            symbol: Forming.at(open_ms, price) for symbol, price in zip(self.symbols, row, strict=True)
        }

    def _renew_liquidity(self, share: float) -> None:
        row = self.feed.market.volume[self.index].tolist()
        volumes = {symbol: exact(volume * share) for symbol, volume in zip(self.symbols, row, strict=True)}
        self.engine.renew_liquidity(volumes)

    # --- market data ----------------------------------------------------------------------------------

    def settled_funding(
        self, symbol: str, start_ms: int | None = None, end_ms: int | None = None
    ) -> list[tuple[int, Decimal]]:
        """(time, rate) of the settlements with start <= time <= end, none after now, ascending."""
        series = self.feed.market.funding[self.symbols.index(symbol)]
        if series is None:
            return []
        latest = self.now_ms if end_ms is None else min(self.now_ms, end_ms)
        first = 0 if start_ms is None else int(series.time_ms.searchsorted(start_ms))
        last = int(series.time_ms.searchsorted(latest, side="right"))
        times, rates = series.time_ms[first:last].tolist(), series.rate[first:last].tolist()
        return [(when, exact(rate)) for when, rate in zip(times, rates, strict=True)]

    def last_funding_rate(self, symbol: str) -> Decimal:
        """The rate last settled; 0 when there was none."""
        series = self.feed.market.funding[self.symbols.index(symbol)]
        if series is None:
            return Decimal(0)
        count = int(series.time_ms.searchsorted(self.now_ms, side="right"))
        return exact(float(series.rate[count - 1])) if count else Decimal(0)

    def next_funding_ms(self, symbol: str) -> int:
        """Time of the next settlement, by the usual spacing after the last; 0 when there is no funding."""
        series = self.feed.market.funding[self.symbols.index(symbol)]
        if series is None or not len(series):
            return 0
        step = series.spacing_ms
        return (self.now_ms // step + 1) * step
