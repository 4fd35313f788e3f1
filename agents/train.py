"""`python -m agents.train`: train a SAC policy and write a training run; its id is the last line of the output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from agents.sac.config import TrainConfig, located, overridden
from agents.training_run import DEFAULT_ROOT, TrainingRun
from envs.config import read_yaml
from envs.errors import ConfigError, PerpgymError

_INTERRUPTED = 130
_TABLE_WIDTH = 120

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: Annotated[
        Path | None, typer.Option(help="Settings, as configs/train/btcusdt_1h.yaml.", show_default=False)
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="TRAIN_ID", help="Continue this run, or make what is missing of it."),
    ] = None,
    candles: Annotated[
        list[Path] | None,
        typer.Option(help="Candle file; repeat for several symbols. Replaces the config's files."),
    ] = None,
    funding: Annotated[list[Path] | None, typer.Option(help="File of funding rates.")] = None,
    mark: Annotated[list[Path] | None, typer.Option(help="File of mark-price candles.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="Symbol; repeat for several.")] = None,
    start: Annotated[str | None, typer.Option(help="First candle, as 2023-01-01 (UTC).")] = None,
    end: Annotated[str | None, typer.Option(help="End of the candles, excluded.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Transitions per gradient step.")] = None,
    window: Annotated[int | None, typer.Option(help="Candles in the observation.")] = None,
    timesteps: Annotated[int | None, typer.Option(help="Candles to trade in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same result.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the training runs.")] = DEFAULT_ROOT,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the train id only.")] = False,
) -> None:
    """Train a SAC policy on perpetual futures, keep the best by validation, and test it.

    Ctrl+C ends the training early: the best policy so far is kept and can be used.
    """
    overrides: dict[str, Any] = {
        "data.candles": _texts(candles),
        "data.funding": _texts(funding),
        "data.marks": _texts(mark),
        "data.symbols": symbol or None,
        "data.start": start,
        "data.end": end,
        "sac.learning_rate": lr,
        "sac.batch_size": batch_size,
        "env.window_size": window,
        "sac.timesteps": timesteps,
        "sac.seed": seed,
        "sac.device": device,
    }
    try:
        code = _train(config, resume, overrides, out, quiet=quiet)
    except PerpgymError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("stopped at once; what the last validation wrote is kept", file=sys.stderr)
        code = _INTERRUPTED
    raise typer.Exit(code)


def _train(
    config: Path | None, resume: str | None, overrides: dict[str, Any], out: Path, *, quiet: bool
) -> int:
    if (config is None) == (resume is None):
        raise ConfigError("give either --config FILE to train, or --resume TRAIN_ID to continue a run")
    # What can be refused is refused before torch is imported, which takes seconds.
    run = TrainingRun.open(resume, out) if resume is not None else None
    settings = load_config(config, overrides) if config is not None else None

    from agents.sac.report import ConsoleReporter, QuietReporter, evaluation_table, timing_line
    from agents.sac.stopping import StopRequest
    from agents.sac.trainer import resume_training, start_training

    console = Console(stderr=True)
    stop = StopRequest()
    with QuietReporter() if quiet else ConsoleReporter(console) as reporter, stop.listening(reporter.notice):
        if run is not None:
            absolute = {
                name: [str(Path(path).absolute()) for path in value] if isinstance(value, list) else value
                for name, value in overrides.items()
            }
            outcome = resume_training(run, absolute, reporter=reporter, should_stop=stop)
        else:
            assert settings is not None
            outcome = start_training(settings, root=out, reporter=reporter, should_stop=stop)
    if not quiet:
        # A pipe has no width of its own, and eighty columns would cut the table.
        Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(
            evaluation_table(outcome.evaluation)
        )
        line = timing_line(outcome.state.timing)
        if line:
            print(line)
        if outcome.interrupted:
            console.print(
                f"interrupted after {outcome.state.timesteps:,} steps; continue with "
                f"python -m agents.train --resume {outcome.run.train_id}",
                highlight=False,
                soft_wrap=True,
            )
        print(f"written to {outcome.run.folder}")
    print(outcome.run.train_id)
    return stop.exit_code if outcome.interrupted else 0


def load_config(path: Path, overrides: dict[str, Any]) -> TrainConfig:
    """The settings of a file with those of the command line.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, missing or out of range.
    """
    values = read_yaml(path)
    if overrides.get("data.candles") is not None and isinstance(values.get("data"), dict):
        # Other candles replace all of the config's market: its fundings and marks belong to its own candles.
        replaced = ("synthetic", "funding", "marks")
        values["data"] = {key: value for key, value in values["data"].items() if key not in replaced}
    values = overridden(values, overrides)
    return located(TrainConfig.parse(values, where=str(path)), path.resolve().parent)


def _texts(paths: list[Path] | None) -> list[str] | None:
    return [str(path) for path in paths] if paths else None


if __name__ == "__main__":
    app()
