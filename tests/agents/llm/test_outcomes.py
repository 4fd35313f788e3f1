"""What is written down about an order that was filled, and yet is not what was decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live_support import Rig, rig
from llm_scripted import SYMBOLS, Kept, Scripted, made, user
from llm_servers import HOLD, opening

from agents.llm.records import Verdict
from agents.run import run
from envs.synthetic import synthetic_market


@contextmanager
def trading(folder: Path, first: dict[str, Any]) -> Iterator[tuple[Rig, Any, Scripted, Kept]]:
    """An agent that decides `first` and then holds, on the paper exchange."""
    setup, provider, sink = made(folder, lambda k, _request: first if k == 0 else HOLD)
    with rig(
        synthetic_market(SYMBOLS, n=30, seed=9),
        first=20,
        config=setup.env,
        limits=setup.limits,
        features=setup.features,
        agent=setup.agent.name,
    ) as live:
        yield live, setup.agent, provider, sink


@pytest.mark.parametrize("trigger", [{"take_profit": 1e300}, {"stop_loss": 5e-324}], ids=str)
def test_a_trigger_that_the_exchange_refuses_is_no_accepted_decision(
    trigger: dict[str, float], tmp_path: Path
) -> None:
    """A reply may ask for prices that no exchange takes: its position is closed again, and nothing else happens."""
    with trading(tmp_path, opening(quantity=0.01, **trigger)) as (live, agent, provider, sink):
        result = run(live.stack, agent, max_steps=2)
        assert result.emergency is None
        assert live.held() == 0
    record = sink.records[0]
    assert (record.verdict, record.check) == (Verdict.FAILED, "trigger")
    assert "position closed again" in record.detail and "PRICE_FILTER" in record.detail
    assert [(side, quantity) for _, side, quantity, _ in record.fills] == [("BUY", "0.01")]
    # The model hears of it, too.
    (line,) = [line for line in user(provider.asked[1]).splitlines() if line.startswith('{"time"')]
    told = json.loads(line)
    assert told["outcome"] == "failed: trigger"
    assert [words.split(" at ")[0] for words in told["fills"]] == ["filled 0.01", "emergency_close -0.01"]


def test_an_order_that_filled_in_part_is_reduced(tmp_path: Path) -> None:
    with trading(tmp_path, opening(quantity=0.01)) as (live, agent, _, sink):
        live.happen(kind="partial_fill", share=0.5)
        run(live.stack, agent, max_steps=1)
        assert live.held() == live.stack.fills[0].quantity > 0
    record = sink.records[0]
    assert (record.verdict, record.check) == (Verdict.REDUCED, "exchange")
    assert "of 0.01" in record.detail
    assert record.fills[0][2] == "0.005"
