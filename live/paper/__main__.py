"""`python -m live.paper`: the paper exchange as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agents.data import load_market
from envs.candles import load_candles
from envs.errors import ConfigError, PerpgymError
from envs.time_grid import format_time, parse_time_ms
from live.paper.account import PaperAccount
from live.paper.exchange import PaperExchange
from live.paper.feeds import ReplayFeed, synthetic_feed
from live.paper.persistence import read_header
from live.paper.runtime import PaperServer

DEFAULT_HISTORY = 1_500

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def parse_speed(text: str) -> float | None:
    """`max` is lock-step (None), else candle time per wall time."""
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"speed is {text!r}; give a number (1 is real time) or 'max'") from None


def replay_feed(
    candles: Sequence[Path],
    *,
    funding: Sequence[Path] = (),
    marks: Sequence[Path] = (),
    symbols: Sequence[str] | None = None,
    start: str | None = None,
    speed: float | None = None,
) -> ReplayFeed:
    """A feed over recorded candles. Without a start, the first 1500 candles (at most half) are history.

    Raises:
        CandleError: a file cannot be read or breaks a rule.
        ConfigError: a symbol without candles, or a start with no candle before it.
    """
    market = load_market(
        candles, funding=funding, marks=marks, symbols=symbols, start=start, notice=_print_notice
    )
    start_ms = parse_time_ms(start)
    if start_ms is None:
        index = min(DEFAULT_HISTORY, max(1, len(market) // 2))
    else:
        index = int(market.open_time_ms.searchsorted(start_ms))
        if index < 1:
            raise ConfigError(
                f"start {start} leaves no candle before it as history; the candles begin at "
                f"{format_time(market.open_time_ms[0])}"
            )
    shown = (load_candles(path) for path in marks)
    return ReplayFeed(
        market, index, speed, {one.symbol: one for one in shown if one.symbol in market.symbols}
    )


def _print_notice(text: str) -> None:
    print(f"note: {text}")


@app.command()
def main(
    candles: Annotated[
        list[Path] | None, typer.Option(help="Candle files; none: a synthetic market.")
    ] = None,
    funding: Annotated[list[Path] | None, typer.Option(help="Funding files.")] = None,
    mark: Annotated[list[Path] | None, typer.Option(help="Mark-price candle files.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="Symbols to trade; default: all given.")] = None,
    start: Annotated[str | None, typer.Option(help="First candle to be played, as 2024-01-01.")] = None,
    interval: Annotated[str, typer.Option(help="Candle interval of a synthetic market.")] = "1m",
    seed: Annotated[int, typer.Option(help="Seed of a synthetic market.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8899,
    speed: Annotated[str, typer.Option(help="Candle time per wall time, or max for lock-step.")] = "1",
    wallet: Annotated[str, typer.Option(help="Opening balance in USDT.")] = "10000",
    slippage_bps: Annotated[str, typer.Option(help="Slippage of taker fills in basis points.")] = "1",
    liquidity_share: Annotated[
        str | None, typer.Option(help="Fraction of a candle's volume that can fill; default: no limit.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File to keep the state in, and to go on from; default: memory only.")
    ] = None,
    api_key: Annotated[str, typer.Option(help="API key of the account.")] = "paper",
    api_secret: Annotated[str, typer.Option(help="API secret of the account.")] = "paper",
) -> None:
    """Run a Binance USD-M paper exchange until Ctrl+C. Its state lives in memory unless a file is given."""
    try:
        pace = parse_speed(speed)
        if candles:
            feed = replay_feed(
                candles, funding=funding or (), marks=mark or (), symbols=symbol, start=start, speed=pace
            )
        else:
            header = None if state is None else read_header(state)
            begin_ms = None if header is None else header["feed"]["first_open_ms"]
            feed = synthetic_feed(
                symbol or ["BTCUSDT"], interval=interval, seed=seed, speed=pace, begin_ms=begin_ms
            )
        account = PaperAccount(api_key, api_secret, _decimal("wallet", wallet))
        exchange = PaperExchange(
            feed,
            [account],
            slippage_bps=_decimal("slippage-bps", slippage_bps),
            liquidity_share=None if liquidity_share is None else _decimal("liquidity-share", liquidity_share),
            state=state,
        )
        server = PaperServer(exchange, host=host, port=port)
    except PerpgymError as problem:
        Console(stderr=True).print(f"error: {problem}", style="red", markup=False)
        raise typer.Exit(problem.exit_code) from None
    market = "synthetic market" if feed.market.synthetic else "replay"
    print(f"paper exchange ({market}): {', '.join(feed.market.symbols)} {exchange.interval}")
    print(f"from {format_time(feed.start_ms)}, {exchange.remaining} candles, speed {speed}")
    print(f"REST {server.rest_url}/fapi   streams {server.ws_url}   API key {api_key}")
    if state is not None:
        print(f"state in {state}, at {format_time(exchange.now_ms)}")
    sys.stdout.flush()
    try:
        server.serve()
    finally:
        exchange.close()


def _decimal(name: str, text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"--{name} is {text!r}; give a number") from None


if __name__ == "__main__":
    app()
