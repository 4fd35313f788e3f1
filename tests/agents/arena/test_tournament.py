"""Ranks, intervals and concordance against numbers worked out by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agents.arena.report import tournament_figure, write_tournament_report
from agents.arena.standings import Standing, ranked
from agents.arena.tournament import average_ranks, concordance, interval_of, t_quantile, tournament_of


def standing(agent: str, net: float) -> Standing:
    return Standing(0, agent, "flat", 100.0, 100.0 * (1 + net), net, net, None, 0.1, 1, None, 0.0, 0.0, 5)


def test_quantiles_of_students_t() -> None:
    # From printed tables.
    for degrees, value in ((1, 12.706), (2, 4.303), (8, 2.306), (9, 2.262), (20, 2.086), (60, 2.000)):
        assert t_quantile(degrees) == pytest.approx(value, abs=0.005)


def test_an_interval_by_hand() -> None:
    # 1, 2, 3: deviation 1, half width 4.30265 / sqrt(3).
    found = interval_of([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high == pytest.approx(2.0 + 2.484136, abs=1e-5)
    assert interval_of([4.0]).low is None


def test_ranks_share_their_places() -> None:
    assert average_ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [1.5, 4.0, 1.5, 3.0]


def test_concordance_by_hand() -> None:
    assert concordance([[3, 2, 1], [30, 20, 10]]) == 1.0
    assert concordance([[3, 2, 1], [1, 2, 3]]) == 0.0
    # Rank sums 4, 5, 9 of three repeats (6 expected): 12 * (4 + 1 + 9) / (9 * 24).
    assert concordance([[3, 2, 1], [3, 2, 1], [2, 3, 1]]) == pytest.approx(12 * 14 / 216)
    # A tie in one repeat: ranks 1.5 1.5 3 and 1 2 3; sums 2.5 3.5 6; 12 * 6.5 / (4 * 24 - 2 * 6).
    assert concordance([[3, 3, 1], [3, 2, 1]]) == pytest.approx(12 * 6.5 / 84)
    assert concordance([[1, 2]]) is None and concordance([[1, 1], [2, 2]]) is None


def test_a_tournament_counts_firsts_and_ranks() -> None:
    boards = {
        1: ranked([standing("a", 0.1), standing("b", 0.2)]),
        2: ranked([standing("a", 0.3), standing("b", 0.1)]),
        3: ranked([standing("a", 0.3), standing("b", 0.3)]),
    }
    assert [one.rank for one in boards[3]] == [1, 1]
    found = tournament_of(boards)
    a, b = sorted(found.records, key=lambda one: one.agent)
    assert (a.mean_rank, b.mean_rank) == (1.5, 1.5)
    assert (a.firsts, b.firsts) == (2, 2)
    assert (a.best_rank, a.worst_rank) == (1.0, 2.0)
    assert a.net_return.mean == pytest.approx(0.7 / 3)


def test_the_page_draws_every_repeat_beside_its_mean_and_leads_to_their_pages(tmp_path: Path) -> None:
    repeats = {
        3: ranked([standing("a", 0.01), standing("<b>", 0.05)]),
        5: ranked([standing("a", 0.02), standing("<b>", 0.01)]),
        8: ranked([standing("a", 0.03), standing("<b>", 0.03)]),
    }
    tournament = tournament_of(repeats)
    write_tournament_report(tmp_path / "report.html", "T", "on paper", tournament, repeats, ["no <key>"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    told = re.search(r'<script type="application/json" id="figure">(.*?)</script>', page, re.DOTALL)
    assert told is not None
    figure = json.loads(told[1])
    assert figure == tournament_figure(tournament, repeats)
    dots, means = figure["data"]
    drawn = sorted(zip(dots["x"], dots["y"], dots["text"], strict=True))
    assert drawn == [
        ("<b>", 1.0, "seed 5"), ("<b>", 3.0, "seed 8"), ("<b>", 5.0, "seed 3"),
        ("a", 1.0, "seed 3"), ("a", 2.0, "seed 5"), ("a", 3.0, "seed 8"),
    ]  # fmt: skip
    # Means 3 and 2 %; deviations 2 and 1 %, half widths 4.30265 / sqrt(3) of them.
    at = means["x"].index("a")
    assert means["y"][at] == 2.0 and means["y"][1 - at] == 3.0
    assert means["error_y"]["array"][at] == pytest.approx(2.4841, abs=1e-3)
    assert all(f'href="seed-{seed}/report.html"' in page for seed in repeats)
    assert "no &lt;key&gt;" in page and "<b>&lt;b&gt;</b>" in page
    assert "Kendall" in page
