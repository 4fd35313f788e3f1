"""When the next sync is due: soon where something is about to happen, later where nothing is."""

from __future__ import annotations

from decimal import Decimal

from live.sync.report import SyncReport
from live.sync.settings import PositionSyncSettings


def nearest_fraction(report: SyncReport) -> float | None:
    """Distance of the nearest stop, take-profit or liquidation price, as a fraction of the price; None without any."""
    distances = []
    for row in report.positions:
        if row.price:
            distances += [abs(trigger - row.price) / row.price for _, trigger in row.guards]
    for position in report.exchange_positions.values():
        if position.liquidation_price is not None and position.mark_price:
            distances.append(abs(position.liquidation_price - position.mark_price) / position.mark_price)
    return float(min(distances)) if distances else None


def interval_s(report: SyncReport, settings: PositionSyncSettings) -> float:
    """Seconds until the next sync. After an error or a difference, the ordinary interval."""
    if report.errors or report.differences:
        return settings.every_s
    if not report.positions:
        return settings.calm_s
    nearest = nearest_fraction(report)
    if nearest is not None and nearest < settings.near_fraction:
        return settings.near_s
    moved = max((abs(row.percent or Decimal(0)) for row in report.positions), default=Decimal(0))
    calm = nearest is None or nearest > settings.calm_fraction
    # Without a guard anywhere, a position that has moved far is not calm.
    if calm and (nearest is not None or moved < 100 * Decimal(str(settings.calm_fraction))):
        return settings.calm_s
    return settings.every_s
