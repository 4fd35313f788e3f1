"""All that a prompt is made of, as plain values: what there is to see at one close, and what was decided before.

A scene comes from the environment's view and the observation, both of which end at the last closed candle; nothing
else enters a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from envs.account import ZERO, AccountSnapshot, Position
from envs.base import Observation
from envs.instruments import Instrument
from envs.observation import ObservationSpec
from envs.planning import to_decimal
from envs.view import MarketView, RecentCandles


@dataclass(frozen=True, slots=True)
class CandleRow:
    """One closed candle. `quote_volume` is volume times close."""

    close_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    quote_volume: Decimal


@dataclass(frozen=True, slots=True)
class SymbolScene:
    """One instrument: its rules, its recent candles (oldest first), its indicators at the last close."""

    symbol: str
    price: Decimal
    tick_size: Decimal
    step_size: Decimal
    min_notional_usdt: Decimal
    candles: tuple[CandleRow, ...]
    indicators: tuple[tuple[str, float], ...]
    stale: bool = False


@dataclass(frozen=True, slots=True)
class PositionScene:
    """An open position. `liquidation_price` is where it alone would bring the account down; None when nowhere."""

    symbol: str
    side: str
    quantity: Decimal
    entry_price: Decimal
    price: Decimal
    pnl_usdt: Decimal
    candles_held: int
    stop_price: Decimal | None
    take_profit_price: Decimal | None
    liquidation_price: Decimal | None


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier decision and what came of it. `strategy` and `reasoning` are the model's own words.

    Attributes:
        outcome: the verdict, and the check or limit behind it: words of ours.
        complaint: why a reply was not understood; may quote it.
        fills: what it traded, and what its triggers did later: (what, signed quantity, price).
    """

    close_ms: int
    action: str
    outcome: str
    symbol: str | None = None
    side: str | None = None
    quantity: Decimal | None = None
    stop_price: Decimal | None = None
    take_profit_price: Decimal | None = None
    strategy: str = ""
    reasoning: str = ""
    complaint: str = ""
    fills: tuple[tuple[str, Decimal, Decimal], ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """What the model is shown. Money in USDT, times in UTC ms."""

    close_ms: int
    interval_ms: int
    equity_usdt: Decimal
    wallet_usdt: Decimal
    available_usdt: Decimal
    drawdown_fraction: float
    symbols: tuple[SymbolScene, ...]
    positions: tuple[PositionScene, ...]
    past: tuple[Past, ...] = ()


def look(
    view: MarketView,
    spec: ObservationSpec,
    observation: Observation,
    *,
    candles: int,
    past: tuple[Past, ...] = (),
) -> Scene:
    """The scene at the last close."""
    account = view.account()
    instruments = view.instruments
    recent = view.recent_candles(candles)
    stale = frozenset(view.stale_symbols())
    shown = []
    for column, symbol in enumerate(view.symbols):
        rows = tuple(_candle(recent, k, column, view.interval_ms) for k in range(len(recent.open_time_ms)))
        rules = instruments[symbol]
        shown.append(
            SymbolScene(
                symbol=symbol,
                price=rows[-1].close,
                tick_size=rules.tick_size,
                step_size=rules.step_size,
                min_notional_usdt=rules.min_notional_usdt,
                candles=rows,
                indicators=_indicators(spec, observation, column),
                stale=symbol in stale,
            )
        )
    return Scene(
        close_ms=account.time_ms,
        interval_ms=view.interval_ms,
        equity_usdt=account.equity_usdt,
        wallet_usdt=account.wallet_usdt,
        available_usdt=account.available_usdt,
        drawdown_fraction=_drawdown(spec, observation),
        symbols=tuple(shown),
        positions=tuple(
            _position(account.positions[symbol], account, instruments[symbol])
            for symbol in view.symbols
            if account.positions[symbol].quantity != 0
        ),
        past=past,
    )


def _candle(recent: RecentCandles, k: int, column: int, interval_ms: int) -> CandleRow:
    return CandleRow(
        close_ms=int(recent.open_time_ms[k]) + interval_ms - 1,
        open=to_decimal(recent.open[k, column]),
        high=to_decimal(recent.high[k, column]),
        low=to_decimal(recent.low[k, column]),
        close=to_decimal(recent.close[k, column]),
        quote_volume=to_decimal(recent.volume[k, column] * recent.close[k, column]),
    )


def _indicators(
    spec: ObservationSpec, observation: Observation, column: int
) -> tuple[tuple[str, float], ...]:
    last = (spec.window_size - 1) * len(spec.features)
    found = []
    for name in dict.fromkeys(spec.features):
        places = [place for place, feature in enumerate(spec.features) if feature == name]
        found.append((name, float(observation[last + places[column]])))
    return tuple(found)


def _drawdown(spec: ObservationSpec, observation: Observation) -> float:
    names = [entry.name for entry in spec.portfolio]
    return float(observation[spec.window_size * len(spec.features) + names.index("drawdown")])


def _position(position: Position, account: AccountSnapshot, instrument: Instrument) -> PositionScene:
    return PositionScene(
        symbol=position.symbol,
        side=position.side.value,
        quantity=abs(position.quantity),
        entry_price=position.entry_price,
        price=position.mark_price,
        pnl_usdt=position.unrealized_pnl_usdt,
        candles_held=position.candles_held,
        stop_price=position.protection.stop_price,
        take_profit_price=position.protection.take_profit_price,
        liquidation_price=liquidation_price(position, account, instrument),
    )


def liquidation_price(position: Position, account: AccountSnapshot, instrument: Instrument) -> Decimal | None:
    """The price at which this position alone brings equity down to the maintenance margin; None when there is none.

    With the other prices as they are, and rate and amount of the bracket that the position is in now:
    equity + q * (p - mark) = others' maintenance + |q| * p * rate - amount, solved for p.
    """
    q, mark = position.quantity, position.mark_price
    bracket = instrument.bracket_at(abs(q) * mark)
    own = instrument.maintenance_margin_usdt(abs(q) * mark)
    others = max(account.maintenance_margin_usdt - own, ZERO)
    slope = q - abs(q) * bracket.maintenance_rate
    price = (q * mark - account.equity_usdt + others - bracket.maintenance_amount_usdt) / slope
    return instrument.round_price(price, up=q > 0) if price > 0 else None
