"""`python -m live.download SYMBOL INTERVAL START END`: candles, mark candles and funding rates into Parquet files.

Rows are kept in `DIR/.download/` as they come, so that a download that was interrupted goes on where it stopped.
The finished files appear whole, are named after their first and last day, and load with `envs.candles.load_candles`
and `load_funding`. A series that is there already, for the same venue and span, is not fetched again.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from envs.errors import CandleError, PerpgymError
from envs.time_grid import format_time
from live.exchange.binance import BinanceExchange
from live.exchange.series import CandleSeries, FundingRates, MarkSeries, Request, Series, download_series
from live.settings import Venue, paper_venue, venue


def parse_venue(text: str) -> Venue:
    """`live`, `testnet`, `demo`, or the URL of a paper exchange."""
    if not text.startswith(("http://", "https://")):
        return venue(text)
    return paper_venue(text, "ws" + text.removeprefix("http"))


async def download(
    request: Request, out: Path, *, marks: bool, funding: bool, console: Console
) -> list[Path]:
    """Download a request's series into `out`; returns the files that it has now.

    Raises:
        InputError: the symbol is unknown, or the exchange has no candles in the span.
        ExchangeError: the exchange does not answer.
    """
    series: list[Series] = [CandleSeries(request)]
    if marks:
        series.append(MarkSeries(request))
    if funding:
        series.append(FundingRates(request))
    files = []
    async with BinanceExchange(request.venue, None, ()) as exchange:
        await exchange.check_symbol(request.symbol)
        columns = (
            TextColumn("{task.description:14}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            span_ms = request.end_ms - request.start_ms
            for one in series:
                task = progress.add_task(one.title, total=span_ms, rows=0)

                def report(done_ms: int, rows: int, task: TaskID = task) -> None:
                    progress.update(task, completed=done_ms - request.start_ms, rows=rows)

                path, note = await download_series(exchange, one, out, report)
                progress.update(task, completed=span_ms)
                if note:
                    progress.console.print(f"{one.title}: {note}", soft_wrap=True)
                if path is not None:
                    files.append(path)
                elif one is series[0]:
                    raise CandleError(
                        f"{request.symbol}: {request.venue.name} has no {request.interval} candles from "
                        f"{format_time(request.start_ms)} to {format_time(request.end_ms)} (excluded)"
                    )
    return files


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    symbol: Annotated[str, typer.Argument(help="A perpetual contract, such as BTCUSDT.")],
    interval: Annotated[str, typer.Argument(help="Candle interval: 1m, 5m, 15m, 1h, 4h, 1d, ...")],
    start: Annotated[str, typer.Argument(help="First candle, UTC: 2023-01-01, 2023-01-01T12:00, or ms.")],
    end: Annotated[str, typer.Argument(help="End, excluded, in the same form; open candles are left out.")],
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("data"),
    venue: Annotated[str, typer.Option(help="live, testnet, demo, or the URL of a paper exchange.")] = "live",
    marks: Annotated[bool, typer.Option(help="Mark-price candles too.")] = True,
    funding: Annotated[bool, typer.Option(help="Funding rates too.")] = True,
) -> None:
    """Download candles, mark candles and funding rates. Run it again to continue after an interruption."""
    console = Console(stderr=True)
    try:
        request = Request.parse(symbol, interval, start, end, parse_venue(venue))
        files = asyncio.run(download(request, out, marks=marks, funding=funding, console=console))
    except PerpgymError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        name = error.filename or out
        print(
            f"error: cannot write {name} ({error.strerror}); give another folder with --out", file=sys.stderr
        )
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        raise typer.Exit(130) from None
    for path in files:
        print(path)


if __name__ == "__main__":
    app()
