"""What an observation is: every entry with name, unit and bounds, and a hash that a policy checks.

Layout, float32, clipped to +-10:

| entries | content |
|---|---|
| W * F | the window, oldest candle first: F scaled features per candle |
| 3 per symbol | exposure (notional / equity; a share of max_leverage when normalised), unrealized PnL / equity,
|   | candles in position / W |
| 2 | drawdown; margin ratio (maintenance margin / equity) |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from envs.candles import interval_name
from envs.errors import ObservationMismatchError
from envs.settings import EnvConfig

CLIP = 10.0


@dataclass(frozen=True, slots=True)
class ObservationEntry:
    """One entry of the observation vector."""

    name: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class ObservationSpec:
    """Describes an observation completely enough to refuse another one.

    Attributes:
        symbols: in the order of the action vector.
        interval: candle interval, such as "1h".
        window_size: W, candles.
        features: F names, in column order.
        portfolio: 3 * n + 2 entries.
    """

    symbols: tuple[str, ...]
    interval: str
    window_size: int
    features: tuple[str, ...]
    portfolio: tuple[ObservationEntry, ...]

    @property
    def size(self) -> int:
        """Length of the observation vector: W * F + 3 * n + 2."""
        return self.window_size * len(self.features) + len(self.portfolio)

    @property
    def hash(self) -> str:
        """16 hex digits over everything above; symbols count by number, so a policy may trade another symbol."""
        content = asdict(self)
        content["symbols"] = len(self.symbols)
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def entries(self) -> list[ObservationEntry]:
        """Every entry in order, the window's too: `rsi_14[t-29]` ... `rsi_14[t]`."""
        window = [
            ObservationEntry(f"{name}[t-{back}]" if back else f"{name}[t]", "scaled", -CLIP, CLIP)
            for back in range(self.window_size - 1, -1, -1)
            for name in self.features
        ]
        return window + list(self.portfolio)

    def require(self, expected_hash: str, *, whose: str) -> None:
        """Refuse a policy that was trained on another observation.

        Raises:
            ObservationMismatchError: names both hashes and what to compare.
        """
        if expected_hash != self.hash:
            raise ObservationMismatchError(
                f"{whose} was trained on observation {expected_hash}, this environment gives {self.hash} "
                f"({len(self.symbols)} symbol(s), {self.interval} candles, window {self.window_size}, "
                f"{len(self.features)} features): run it with the interval, window, indicators and number of "
                "symbols of its config_metadata.yaml, or train it anew",
                expected=expected_hash,
                actual=self.hash,
            )


def observation_spec(
    symbols: Sequence[str], interval_ms: int, features: Sequence[str], config: EnvConfig
) -> ObservationSpec:
    """The observation of an environment with these symbols, features and settings."""
    portfolio: list[ObservationEntry] = []
    for number in range(len(symbols)):
        prefix = f"symbol_{number}." if len(symbols) > 1 else ""
        unit = "share of max_leverage" if config.normalize_portfolio else "multiple of equity"
        portfolio += [
            ObservationEntry(f"{prefix}exposure", unit, -CLIP, CLIP),
            ObservationEntry(f"{prefix}unrealized_pnl", "fraction of equity", -CLIP, CLIP),
            ObservationEntry(f"{prefix}candles_in_position", "windows", 0.0, CLIP),
        ]
    portfolio += [
        ObservationEntry("drawdown", "fraction of peak equity", 0.0, 1.0),
        ObservationEntry("margin_ratio", "maintenance margin / equity", 0.0, CLIP),
    ]
    # The spec's feature names must not carry symbols, or a run could not be used on another symbol.
    names = tuple(name.split(":", 1)[-1] if len(symbols) > 1 else name for name in features)
    return ObservationSpec(
        symbols=tuple(symbols),
        interval=interval_name(interval_ms),
        window_size=config.window_size,
        features=names,
        portfolio=tuple(portfolio),
    )
