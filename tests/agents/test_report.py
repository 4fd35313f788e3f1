"""The report: its numbers, its figures, that it fetches nothing, and that a browser draws it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from support import flat_rows, market_of

from agents.backtest_run import BacktestResult, run_backtest
from agents.catalog import make_agent
from agents.report.figures import returns_figure, run_figure
from agents.report.html import render
from agents.report.series import MARKS, MAX_CANDLES, Grid, make_grid, pack, payload
from agents.simulate import build_env
from envs.market import Market
from envs.synthetic import synthetic_market

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (path := shutil.which(name))
    ),
    None,
)


def unpack(values: dict[str, str]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])


def run(spec: str, market: Market, config: dict[str, Any] | None = None) -> BacktestResult:
    setup = make_agent(spec, symbols=market.symbols, config=config, seed=1)
    return run_backtest(spec, setup, build_env(setup, market), seed=1)


def payload_of(result: BacktestResult) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(
        json.dumps(payload(result.simulation, result.benchmarks, result.market), allow_nan=False)
    )
    return values


@pytest.fixture(scope="module")
def traded() -> BacktestResult:
    """Two symbols with stops, take-profits and flips."""
    config = {
        "agent": {"periods": 6},
        "env": {"action": {"stop_loss_fraction": 0.01, "take_profit_fraction": 0.02}},
    }
    return run("momentum", synthetic_market(("BTCUSDT", "ETHUSDT"), n=500, seed=3), config)


# --- numbers ----------------------------------------------------------------------------------------------


def test_arrays_travel_as_little_endian_numbers() -> None:
    assert pack([1.0, -2.5]) == {
        "dtype": "f4",
        "bdata": base64.b64encode(b"\x00\x00\x80\x3f\x00\x00\x20\xc0").decode(),
    }
    assert unpack(pack([1.5e12], "f8")).tolist() == [1.5e12]
    assert unpack(pack([0, 7], "u1")).tolist() == [0, 7]


def test_a_grid_groups_candles() -> None:
    grid = Grid(start_ms=0, interval_ms=60_000, group=3, count=3)
    values = np.array([1.0, 5.0, 2.0, 4.0, 0.0, 3.0, 9.0])
    assert grid.step_ms == 180_000
    assert grid.last_of_each(values).tolist() == [2.0, 3.0, 9.0]
    assert grid.largest_of_each(values).tolist() == [5.0, 4.0, 9.0]
    assert grid.smallest_of_each(values).tolist() == [1.0, 0.0, 9.0]


def test_the_series_are_those_of_the_run() -> None:
    # 0.5 BTC at 20,000, then 21,000, then 18,000: fees and slippage off.
    market = market_of(
        [*flat_rows(20_000, 20_000), (20_000.0, 21_000.0, 20_000.0, 21_000.0), *flat_rows(18_000)]
    )
    config = {"env": {"slippage_bps": 0.0, "taker_fee_fraction": 0.0}}
    values = payload_of(run("buy-and-hold", market, config))
    assert values["grid"] == {"start": int(market.open_time_ms[0]), "step": 3_600_000, "count": 4, "group": 1}
    assert unpack(values["candles"]["BTCUSDT"]["high"]).tolist() == [20_000, 20_000, 21_000, 18_000]
    assert unpack(values["equity"]["agent"]).tolist() == [10_000, 10_000, 10_500, 9_000]
    assert unpack(values["equity"]["buy-and-hold"]).tolist() == [10_000, 10_000, 10_500, 9_000]
    assert unpack(values["equity"]["flat"]).tolist() == [10_000] * 4
    assert unpack(values["drawdown"]["agent"]) == pytest.approx([0, 0, 0, 100 * (9_000 / 10_500 - 1)])
    assert unpack(values["exposure"]["BTCUSDT"]).tolist() == [0, 1, 1, 1]
    assert values["trades"]["total"] == 1
    assert unpack(values["trades"]["time"]).tolist() == [int(market.open_time_ms[1])]
    assert unpack(values["trades"]["quantity"]).tolist() == [0.5]
    assert [MARKS[kind] for kind in unpack(values["trades"]["mark"])] == ["long entry"]
    # Still open: 0.5 * (18,000 - 20,000), a tenth of what was paid.
    (row,) = values["trips"]["rows"]
    assert row == [
        "BTCUSDT",
        "long",
        int(market.open_time_ms[1]),
        None,
        0.5,
        20_000,
        18_000,
        -1_000,
        -10,
        None,
        "still open",
    ]


def test_every_fill_is_marked_and_every_round_trip_listed(traded: BacktestResult) -> None:
    values = payload_of(traded)
    kinds = [MARKS[kind] for kind in unpack(values["trades"]["mark"])]
    assert len(kinds) == values["trades"]["total"] == len(traded.simulation.trades)
    assert {"long entry", "short entry", "stop", "take-profit"} <= set(kinds)
    rows = values["trips"]["rows"]
    closed = [row for row in rows if row[10] != "still open"]
    assert len(closed) == values["trips"]["total"] == traded.simulation.metrics.trades
    assert {row[10] for row in closed} == {"signal", "stop", "take-profit"}
    # What the round trips earned, the open positions and funding make the equity.
    earned = sum(row[7] for row in rows) + traded.simulation.metrics.funding
    unlisted = sum(row[9] for row in closed) - traded.simulation.metrics.fees  # entry fees of what is open
    assert traded.simulation.metrics.final_equity == pytest.approx(10_000 + earned + unlisted, abs=0.01)


def test_shares_of_returns_add_up(traded: BacktestResult) -> None:
    shares = payload_of(traded)["returns"]["shares"]
    assert sum(shares["agent"]) == pytest.approx(100)
    assert sum(shares["buy-and-hold"]) == pytest.approx(100)


def test_an_emergency_stands_at_the_last_candle() -> None:
    market = synthetic_market(n=200, falling=True)
    result = run("buy-and-hold", market, {"risk": {"max_drawdown_fraction": 0.01}})
    values = payload_of(result)
    equity = unpack(values["equity"]["agent"])
    assert len(equity) < 200 == len(unpack(values["equity"]["flat"]))
    assert equity[-1] == pytest.approx(result.simulation.metrics.final_equity)
    assert unpack(values["exposure"]["BTCUSDT"])[-1] == 0
    assert MARKS[unpack(values["trades"]["mark"])[-1]] == "emergency"
    assert values["trips"]["rows"][-1][10] == "emergency"


def test_a_long_market_is_thinned_without_losing_its_extremes() -> None:
    n = 2 * MAX_CANDLES + 7
    market = synthetic_market(n=n, interval="1m", seed=4)
    grid = make_grid(market)
    assert (grid.group, grid.count) == (3, -(-n // 3))
    result = run("buy-and-hold", market.rows(0, 500))
    short = payload(result.simulation, result.benchmarks, market.rows(0, 500))
    assert short["grid"]["group"] == 1
    highs = grid.largest_of_each(market.high[:, 0])
    assert highs.max() == market.high.max()
    assert len(highs) == grid.count


# --- figures and page -------------------------------------------------------------------------------------


def test_plotly_knows_everything_that_the_figures_say() -> None:
    for figure in (run_figure("SAC", 0, 1), returns_figure("SAC")):
        go.Figure(figure)  # refuses unknown properties and values
    metas = [trace["meta"] for trace in run_figure("SAC", 0, 1)["data"]]
    assert metas[0] == "candles"
    assert len(metas) == len(set(metas))


def test_the_page_fetches_nothing_and_says_what_it_is(traded: BacktestResult) -> None:
    page = render(traded, {"record": {"made_at": "now", "versions": {"perpgym": "0"}}})
    assert "default-src 'none'" in page
    ours = page.replace(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0], "")
    assert "plotly.js v" in page
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", ours)
    assert "SYNTHETIC MARKET" in page
    assert "These prices were made up" in page
    for text in (
        "momentum on BTCUSDT, ETHUSDT",
        "Final equity, USDT",
        "buy-and-hold",
        "flat",
        "1 bps slippage",
    ):
        assert text in page
    # A tenth of the limit of 10 MB beside plotly's own script.
    assert len(ours) < 1_000_000


def test_what_comes_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.csv"
    path.write_text("step,BTCUSDT\n0,1\n20,0\n", encoding="utf-8")
    result = run(f"actions:{path}", synthetic_market(n=60))
    page = render(result, {"note": "</script><script>alert(1)</script>"})
    assert "<img" not in page
    assert "<script>alert" not in page


# --- a real browser ---------------------------------------------------------------------------------------

_PROBE = """
<script>
addEventListener("load", async () => {
  while (!document.body.dataset.ready) await new Promise((done) => setTimeout(done, 20));
  const chart = document.getElementById("run");
  const candles = () => chart.data.find((trace) => trace.meta === "candles").x.length;
  document.body.dataset.all = candles();
  const [from, to] = chart.layout.xaxis.range.map(Number);
  const part = [from + (to - from) * 0.5, from + (to - from) * 0.6];
  await Plotly.relayout(chart, { "xaxis.range[0]": part[0], "xaxis.range[1]": part[1] });
  await new Promise((done) => setTimeout(done, 300));
  document.body.dataset.zoomed = candles();
  document.querySelectorAll("#trips thead button")[7].click();
  const pnl = document.querySelector("#trips tbody tr").children[7].textContent;
  document.body.dataset.best = pnl.replaceAll(",", "");
  const choice = document.getElementById("symbol");
  choice.value = "ETHUSDT";
  choice.dispatchEvent(new Event("change"));
  await new Promise((done) => setTimeout(done, 300));
  document.body.dataset.price = chart.data.find((trace) => trace.meta === "candles").high[0];
  document.body.dataset.probed = "true";
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_draws_it_without_a_complaint(traded: BacktestResult, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(traded, {}).replace("</body>", _PROBE + "</body>"), encoding="utf-8")
    assert CHROMIUM is not None
    switches = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --dump-dom "
        "--virtual-time-budget=20000 --window-size=1400,2400"
    )
    done = subprocess.run(
        [CHROMIUM, *switches.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body is not None
    probed = dict(re.findall(r'data-([a-z]+)="([^"]*)"', body[0]))
    assert probed["probed"] == "true"
    # 494 candles in groups of two; a tenth of them one by one.
    assert int(probed["all"]) == 247
    assert 45 <= int(probed["zoomed"]) <= 55
    # The first click on the PnL column shows the largest first; rows hold what the page shows.
    rows = payload_of(traded)["trips"]["rows"]
    assert float(probed["best"]) == pytest.approx(max(row[7] for row in rows), abs=0.006)
    assert float(probed["price"]) < 10_000, "the symbol was changed to ETHUSDT"
    # Each panel is drawn: candles, lines and marks as SVG paths, and the bars of the distribution.
    dom = done.stdout
    assert dom.count('class="trace boxes"') == 1
    assert dom.count('class="trace bars"') == 2
    assert dom.count('class="trace scatter') >= 8
