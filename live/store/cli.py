"""`python -m live.store`: upgrade, check and export the database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from envs.errors import ConfigError, PerpgymError
from live.store import schema
from live.store.check import check as run_checks
from live.store.database import Store, database_url
from live.store.export import FORMATS
from live.store.export import export as run_export
from live.store.schema_page import schema_page

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Upgrade, check and export the database of fills, positions and decisions.",
)
Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="SQLite file, or postgresql:// URL. Default: DATABASE_URL, else data/perpgym.db.",
        show_default=False,
    ),
]


@contextmanager
def _store(db: str | None, *, must_exist: bool) -> Iterator[Store]:
    url = database_url(db)
    try:
        if must_exist and "://" not in url and not Path(url).is_file():
            raise ConfigError(
                f"there is no database {url}; give one with --db, or make it: python -m live.store upgrade"
            )
        with Store(url) as store:
            yield store
    except PerpgymError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


@app.command()
def upgrade(db: Database = None) -> None:
    """Make the tables, or bring them to the newest schema."""
    with _store(db, must_exist=False) as store:
        before = schema.current(store)
        if before is None:
            schema.require_current(store)
        else:
            schema.upgrade(store)
        after = schema.current(store)
        print(
            f"{store.name}: schema {after}"
            + (", as it was" if before == after else f" (was {before or 'empty'})")
        )


@app.command()
def check(db: Database = None) -> None:
    """Check the schema, the references, and that everything folded follows from what was booked. Exit code 1: it does
    not."""
    console = Console()
    with _store(db, must_exist=True) as store:
        with console.status("checking") as status:
            findings = run_checks(store, lambda name: status.update(f"checking {name}"))
        table = Table(title=store.name)
        for heading in ("check", "", "found"):
            table.add_column(heading, overflow="fold")
        for one in findings:
            verdict = "[red]BROKEN[/red]" if one.problem else "[green]ok[/green]"
            table.add_row(one.check, verdict, _plain(one.problem or one.detail))
        console.print(table)
        broken = sum(bool(one.problem) for one in findings)
        if broken:
            print(
                f"error: {broken} of {len(findings)} checks failed; restore the database from a copy, or delete it and "
                "let the next start rebuild it from the exchange",
                file=sys.stderr,
            )
            raise typer.Exit(1)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; files in it are replaced.")],
    db: Database = None,
    file_format: Annotated[str, typer.Option("--format", help=f"{' or '.join(FORMATS)}.")] = "parquet",
    table: Annotated[list[str] | None, typer.Option(help="Only this table; repeat for several.")] = None,
) -> None:
    """Write a file per table, for pandas."""
    with _store(db, must_exist=True) as store:
        schema.require_current(store)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in table or sorted(schema.TABLES)}

            def show(name: str, done: int, rows: int) -> None:
                bar.update(tasks[name], completed=done, total=rows)

            paths = run_export(store, folder, file_format=file_format, tables=table or (), progress=show)
    for path in paths:
        print(path)


@app.command("schema")
def show_schema() -> None:
    """Print the schema page (docs/store.md)."""
    sys.stdout.write(schema_page())
