"""The documentation says what the code does: recipes run, tables are complete, links lead somewhere."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents.run import run
from envs.account import ActionType, OrderStatus
from envs.futures_env import FuturesEnv
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.step_log import COLUMNS, EMERGENCY_COLUMNS
from envs.synthetic import synthetic_market
from envs.wrappers import RiskControl, StepLog

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STEP_LOG = (DOCS / "step-log.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```python\n(.*?)```", STEP_LOG, re.DOTALL)


class _Random:
    name = "random"

    def __init__(self, symbols: int) -> None:
        self.rng = np.random.default_rng(0)
        self.symbols = symbols

    def reset(self, spec: object, *, seed: int | None = None) -> None:
        pass

    def act(self, observation: object, info: object) -> np.ndarray:
        return self.rng.uniform(-1, 1, self.symbols)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run with fills, refusals, stops and an emergency."""
    place = tmp_path_factory.mktemp("run")
    config = EnvConfig.parse(
        {"max_leverage": 3.0, "action": {"scheme": "target", "stop_loss_fraction": 0.01}}
    )
    env = FuturesEnv(synthetic_market(("BTCUSDT", "ETHUSDT"), n=600, seed=3), config=config)
    limits = RiskLimits(max_drawdown_fraction=0.1, max_orders_per_hour=3, max_order_notional_usdt=20_000)
    log = StepLog(
        RiskControl(env, limits),
        agent="random",
        path=place / "steps.csv",
        emergencies_path=place / "emergencies.csv",
    )
    assert run(log, _Random(2)).emergency is not None
    log.close()
    return place


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_recipes_run_as_they_stand(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(RECIPES[number], f"recipe {number} of step-log.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading."""
    part = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_tables_name_every_column_in_order() -> None:
    assert [row[0].strip("`") for row in table_rows(STEP_LOG, "Columns")] == list(COLUMNS)
    assert [row[0].strip("`") for row in table_rows(STEP_LOG, "The emergencies file")] == list(
        EMERGENCY_COLUMNS
    )


def test_every_row_kind_and_result_is_explained() -> None:
    for kind in ActionType:
        assert kind.value in STEP_LOG or kind.value.replace("short", "long") in STEP_LOG, kind
    results = next(row[3] for row in table_rows(STEP_LOG, "Columns") if row[0] == "`result`")
    assert re.findall(r"`(\w+)`", results) == [status.value for status in OrderStatus]


def test_the_cells_have_the_types_that_the_table_promises(folder: Path) -> None:
    text = pd.read_csv(folder / "steps.csv", dtype=str, keep_default_na=False)
    for name, kind, *_ in table_rows(STEP_LOG, "Columns"):
        for cell in text[name.strip("`")]:
            if not cell:
                assert "empty" in kind, name
            elif kind.startswith("int"):
                assert str(int(cell)) == cell
            elif kind.startswith("decimal"):
                assert Decimal(cell).is_finite() and "E" not in cell
            elif kind.startswith("float"):
                float(cell)
            elif kind == "`true`, `false`":
                assert cell in ("true", "false")


def test_every_risk_setting_and_check_is_explained() -> None:
    risk = (DOCS / "risk.md").read_text(encoding="utf-8")
    for name in RiskLimits.model_fields:
        assert f"`{name}`" in risk, name
    source = (ROOT / "envs" / "risk.py").read_text(encoding="utf-8")
    checks = set(re.findall(r'(?:Refused\(|caps\.append\(\()"(\w+)"', source))
    assert len(checks) == 10
    documented = [row[0].strip("`") for row in table_rows(risk, "The checks, in order")]
    assert checks <= set(documented)


MARKDOWN = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{path.name}: {target}"
