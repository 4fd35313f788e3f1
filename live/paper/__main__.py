"""`python -m live.paper`: the paper exchange as a process of its own."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agents.command_line import spread_lists
from agents.data import load_market
from envs.candles import load_candles
from envs.errors import ConfigError, PerpgymError
from envs.time_grid import format_time, parse_time_ms
from live.paper.account import PaperAccount
from live.paper.announce import start_message
from live.paper.exchange import PaperExchange
from live.paper.fault_specs import FaultSchedule
from live.paper.feeds import ReplayFeed, synthetic_feed
from live.paper.persistence import read_header, read_open_ms
from live.paper.runtime import PaperServer
from live.paper.source import BINANCE_REST_URL, BINANCE_STREAM_URL, MarketSource, live_feed

DEFAULT_HISTORY = 1_500
LIST_OPTIONS = ("--candles", "--funding", "--mark", "--symbol", "--account")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def parse_speed(text: str) -> float | None:
    """`max` is lock-step (None), else candle time per wall time."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ConfigError(
            f"--speed is {text!r}; give a number above 0 (1 is real time), or max for lock-step"
        )
    return speed


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
    # As in load_market: a file that does not say its symbol can only be the one that was asked for.
    single = market.symbols[0] if symbols is not None and len(symbols) == len(candles) == 1 else None
    shown = (load_candles(path, symbol=single) for path in marks)
    return ReplayFeed(
        market, index, speed, {one.symbol: one for one in shown if one.symbol in market.symbols}
    )


def _print_notice(text: str) -> None:
    print(f"note: {text}")


def parse_account(text: str) -> PaperAccount:
    """`KEY:SECRET:WALLET`, an account of its own; without a wallet 10000 USDT."""
    key, _, rest = text.partition(":")
    secret, _, wallet = rest.partition(":")
    if not key or not secret:
        # Not the text itself: there may be a secret in it.
        raise ConfigError("--account needs KEY:SECRET or KEY:SECRET:WALLET, as bot1:s3cret:5000")
    return PaperAccount(key, secret, _decimal("account's wallet", wallet or "10000"))


class FeedKind(StrEnum):
    """Where prices come from."""

    REPLAY = "replay"
    SYNTHETIC = "synthetic"
    BINANCE = "binance"


@dataclass(frozen=True, slots=True)
class FeedChoice:
    """What the command line says of the feed."""

    kind: FeedKind | None
    candles: tuple[Path, ...]
    funding: tuple[Path, ...]
    marks: tuple[Path, ...]
    symbols: tuple[str, ...]
    start: str | None
    interval: str
    seed: int
    speed: str
    source_rest: str
    source_streams: str
    state: Path | None

    def open(self) -> ReplayFeed:
        """The feed.

        Raises:
            PerpgymError: settings that do not go together, files that cannot be read, a source out of reach.
        """
        kind = self.kind or (FeedKind.REPLAY if self.candles else FeedKind.SYNTHETIC)
        if kind is FeedKind.REPLAY and not self.candles:
            raise ConfigError("--feed replay needs --candles FILE")
        if kind is not FeedKind.REPLAY and (self.candles or self.funding or self.marks or self.start):
            raise ConfigError(
                f"--feed {kind} takes no --candles, --funding, --mark or --start; those are for --feed replay"
            )
        speed = parse_speed(self.speed)
        if kind is FeedKind.REPLAY:
            return replay_feed(
                self.candles,
                funding=self.funding,
                marks=self.marks,
                symbols=self.symbols or None,
                start=self.start,
                speed=speed,
            )
        symbols = self.symbols or ("BTCUSDT",)
        if kind is FeedKind.BINANCE:
            if speed != 1.0:
                raise ConfigError(f"--feed binance goes as the market goes; leave --speed {self.speed} out")
            source = MarketSource(symbols, self.interval, self.source_rest, self.source_streams)
            begin_ms = None if self.state is None else read_open_ms(self.state)
            print(f"reading candles from {source.rest_url} ...", flush=True)
            return live_feed(source, begin_ms=begin_ms)
        header = None if self.state is None else read_header(self.state)
        begin_ms = None if header is None else header["feed"].get("first_open_ms")
        return synthetic_feed(symbols, interval=self.interval, seed=self.seed, speed=speed, begin_ms=begin_ms)


@app.command()
def paper(
    feed: Annotated[
        FeedKind | None,
        typer.Option(help="Where prices come from; default: replay with --candles, else synthetic."),
    ] = None,
    candles: Annotated[list[Path] | None, typer.Option(help="Candle files to replay.")] = None,
    funding: Annotated[list[Path] | None, typer.Option(help="Funding files.")] = None,
    mark: Annotated[list[Path] | None, typer.Option(help="Mark-price candle files.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="Symbols to trade; default: all given.")] = None,
    start: Annotated[str | None, typer.Option(help="First candle to be played, as 2024-01-01.")] = None,
    interval: Annotated[
        str, typer.Option(help="Candle interval of a synthetic market or of Binance's candles.")
    ] = "1m",
    seed: Annotated[int, typer.Option(help="Seed of a synthetic market.")] = 0,
    source_rest: Annotated[
        str, typer.Option(help="With --feed binance: where candles are read.")
    ] = BINANCE_REST_URL,
    source_streams: Annotated[
        str, typer.Option(help="With --feed binance: where prices are heard.")
    ] = BINANCE_STREAM_URL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")
    ] = 8899,
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
    account: Annotated[
        list[str] | None, typer.Option(help="KEY:SECRET:WALLET, as often as accounts are wanted, instead.")
    ] = None,
    fault_seed: Annotated[
        int | None, typer.Option(help="Let things go wrong, drawn by this seed; default: nothing does.")
    ] = None,
    fault_rate: Annotated[float, typer.Option(help="With --fault-seed: share of what goes wrong.")] = 0.02,
) -> None:
    """Run a Binance USD-M paper exchange until Ctrl+C. Its state lives in memory unless a file is given."""
    choice = FeedChoice(
        feed,
        tuple(candles or ()),
        tuple(funding or ()),
        tuple(mark or ()),
        tuple(symbol or ()),
        start,
        interval,
        seed,
        speed,
        source_rest,
        source_streams,
        state,
    )
    try:
        accounts = [parse_account(text) for text in account or ()]
        if not accounts:
            accounts = [PaperAccount(api_key, api_secret, _decimal("wallet", wallet))]
        exchange = PaperExchange(
            choice.open(),
            accounts,
            slippage_bps=_decimal("slippage-bps", slippage_bps),
            liquidity_share=None if liquidity_share is None else _decimal("liquidity-share", liquidity_share),
            state=state,
        )
        server = PaperServer(exchange, host=host, port=port, faults=_schedule(fault_seed, fault_rate))
    except PerpgymError as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(problem.exit_code) from None
    print(start_message(server, [one.api_key for one in accounts], state))
    sys.stdout.flush()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        server.serve()
    finally:
        exchange.close()


def _schedule(seed: int | None, rate: float) -> FaultSchedule | None:
    if seed is None:
        return None
    if not 0 < rate <= 1:
        raise ConfigError(f"--fault-rate is {rate:g}; give a fraction above 0 and at most 1")
    return FaultSchedule.everything(seed, rate)


def _decimal(name: str, text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"--{name} is {text!r}; give a number") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `python -m live.paper`: ends the process with its exit code."""
    app(
        spread_lists(sys.argv[1:] if arguments is None else arguments, LIST_OPTIONS),
        prog_name="python -m live.paper",
    )


if __name__ == "__main__":
    main()
