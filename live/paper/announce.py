"""What `python -m live.paper` says when it starts: where it listens, and how clients are pointed at it."""

from __future__ import annotations

from pathlib import Path

from envs.time_grid import format_time
from live.paper.exchange import PaperExchange
from live.paper.runtime import PaperServer


def start_message(server: PaperServer, keys: list[str], state: Path | None) -> str:
    """The lines, the addresses filled in. Secrets are not among them."""
    exchange = server.exchange
    rest, streams = server.rest_url, server.ws_url.rstrip("/")
    lines = [
        f"paper exchange ({_market(exchange)}): {', '.join(exchange.symbols)} {exchange.interval}",
        _time(exchange),
        "",
        f"  REST {rest}/fapi",
        f"  streams {streams}",
        f"  WS-API {streams}/ws-fapi/v1",
        f"  API keys {', '.join(keys)}",
    ]
    if state is not None:
        lines.append(f"  state {state}, at {format_time(exchange.now_ms)}")
    return "\n".join(
        [
            *lines,
            "",
            "Point a client at it (docs/paper-exchange.md has these whole):",
            f'  python-binance  client.FUTURES_URL = "{rest}/fapi"; sockets.FSTREAM_URL = "{streams}/"',
            f'  ccxt            replace https://fapi.binance.com by {rest} in exchange.urls["api"]',
            f'  Binance\'s SDK   base_path="{rest}", stream_url="{streams}"',
            f"  live.py         python live.py --paper --paper-url {rest}",
        ]
    )


def _market(exchange: PaperExchange) -> str:
    source = exchange.source
    if source is not None:
        return f"prices of {source.rest_url}"
    return "synthetic market" if exchange.feed.market.synthetic else "replay"


def _time(exchange: PaperExchange) -> str:
    if exchange.source is not None:
        return f"from {format_time(exchange.now_ms)} on, as the market goes"
    span = f"from {format_time(exchange.feed.start_ms)}, {exchange.remaining} candles"
    if exchange.lock_step:
        return f"{span}, in lock-step: POST /paper/advance plays the next"
    return f"{span}, speed {exchange.feed.speed:g}"
