"""Fills since a time: the exchange gives a week at once, and a week with few trades is not the end of them."""

from __future__ import annotations

from live_support import rig, step
from support import START_MS, market_of


def test_fills_beyond_the_first_week_are_found() -> None:
    with rig(market_of([(50_000.0,) * 4] * 300)) as one:
        one.stack.reset()
        step(one, 0.1)
        for _ in range(2):
            one.server.advance(120)
            one.happen(kind="manual_trade", symbol="BTCUSDT", side="BUY", quantity="0.05")
        traded = [str(trade.trade_id) for trade in one.account.trades["BTCUSDT"]]
        assert len(traded) == 3

        async def paged() -> list[str]:
            pages = one.exchange.fill_pages("BTCUSDT", since_ms=START_MS)
            return [fill.trade_id async for page in pages for fill in page]

        whole = one.bridge.call(one.exchange.fills("BTCUSDT", since_ms=START_MS))
        assert [fill.trade_id for fill in whole] == traded
        assert one.bridge.call(paged()) == traded
