"""The actions file: how it is read, what is refused, and what the agent makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.actions_file import ActionsFileAgent, read_actions
from envs.errors import ConfigError, ObservationMismatchError
from envs.observation import observation_spec
from envs.settings import EnvConfig

BTC = ("BTCUSDT",)
BOTH = ("BTCUSDT", "ETHUSDT")
NOTHING = np.zeros(6, np.float32)


def write(folder: Path, text: str) -> Path:
    path = folder / "actions.csv"
    path.write_text(text, encoding="utf-8")
    return path


def agent_for(path: Path, symbols: tuple[str, ...]) -> ActionsFileAgent:
    agent = ActionsFileAgent(read_actions(path, symbols))
    agent.reset(observation_spec(symbols, 3_600_000, ("candle",), EnvConfig(window_size=1)))
    return agent


def test_a_row_holds_until_the_next_and_before_the_first_there_is_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "step,BTCUSDT\n2,0.1\n4,-0.7\n")
    agent = agent_for(path, BTC)
    assert [agent.act(NOTHING, {}).tolist() for _ in range(5)] == [[0.0], [0.0], [0.1], [0.1], [-0.7]]
    assert agent.table.last_step == 4


def test_columns_come_in_any_order_and_actions_in_that_of_the_symbols(tmp_path: Path) -> None:
    path = write(tmp_path, "ETHUSDT, step ,BTCUSDT\r\n0.25,0,-1\r\n\r\n0,3,1e-1\r\n")
    agent = agent_for(path, BOTH)
    assert [agent.act(NOTHING, {}).tolist() for _ in range(4)] == [[-1, 0.25]] * 3 + [[0.1, 0.0]]


def test_a_byte_order_mark_of_a_spreadsheet_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffstep,BTCUSDT\n0,0.5\n")
    assert read_actions(path, BTC).actions.tolist() == [[0.5]]


def test_the_environment_may_say_which_step_it_is(tmp_path: Path) -> None:
    agent = agent_for(write(tmp_path, "step,BTCUSDT\n0,0.1\n1,0.2\n2,0.3\n3,0.4\n"), BTC)
    assert agent.act(NOTHING, {"step": 2}).tolist() == [0.3]
    assert agent.act(NOTHING, {}).tolist() == [0.4]


def test_reset_begins_again_and_the_action_is_the_callers(tmp_path: Path) -> None:
    agent = agent_for(write(tmp_path, "step,BTCUSDT\n0,0.1\n1,0.2\n"), BTC)
    first = agent.act(NOTHING, {})
    first[:] = 9
    agent.reset(observation_spec(BTC, 3_600_000, ("candle",), EnvConfig(window_size=1)))
    assert agent.act(NOTHING, {}).tolist() == [0.1]


def test_quantities_have_no_bound(tmp_path: Path) -> None:
    path = write(tmp_path, "step,BTCUSDT\n0,12.345\n")
    assert read_actions(path, BTC, bound=None).actions.tolist() == [[12.345]]


def test_an_environment_with_other_symbols_is_refused(tmp_path: Path) -> None:
    agent = ActionsFileAgent(read_actions(write(tmp_path, "step,BTCUSDT\n0,0\n"), BTC))
    with pytest.raises(ObservationMismatchError, match="for BTCUSDT, the environment trades ETHUSDT"):
        agent.reset(observation_spec(("ETHUSDT",), 3_600_000, ("candle",), EnvConfig(window_size=1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"it is empty; give a header 'step,BTCUSDT'"),
        ("\n\n", r"it is empty"),
        ("step,BTCUSDT\n", r"there is no row below the header"),
        ("BTCUSDT\n0\n", r"line 1: column 'step' is missing"),
        ("step\n0\n", r"line 1: column 'BTCUSDT' is missing; give the columns step, BTCUSDT"),
        ("step,BTCUSD\n0,0\n", r"line 1: unknown column 'BTCUSD'. Did you mean 'BTCUSDT'\?"),
        ("Step,BTCUSDT\n0,0\n", r"line 1: unknown column 'Step'. Did you mean 'step'\?"),
        ("step,BTCUSDT,BTCUSDT\n0,0,0\n", r"line 1: column 'BTCUSDT' is there twice"),
        ("step,BTCUSDT\n0,0\n0,1\n", r"line 3, column 'step': step 0 is there twice"),
        ("step,BTCUSDT\n5,0\n\n4,1\n", r"line 4, column 'step': step 4 comes after step 5"),
        ("step,BTCUSDT\n-1,0\n", r"line 2, column 'step': -1 is outside 0 to"),
        ("step,BTCUSDT\n1.5,0\n", r"line 2, column 'step': '1.5' is not a whole number"),
        ("step,BTCUSDT\n0,nan\n", r"line 2, column 'BTCUSDT': nan is not finite"),
        ("step,BTCUSDT\n0,0\n1,inf\n", r"line 3, column 'BTCUSDT': inf is not finite"),
        ("step,BTCUSDT\n0,long\n", r"line 2, column 'BTCUSDT': 'long' is not a number"),
        ("step,BTCUSDT\n0,\n", r"line 2, column 'BTCUSDT': the cell is empty"),
        (
            "step,BTCUSDT\n0,1.01\n",
            r"line 2, column 'BTCUSDT': 1.01 is outside -1 to 1; .*scheme to quantity",
        ),
        ("step,BTCUSDT\n0,0,0\n", r"line 2: 3 cells, but the header has 2 columns"),
        ('step,BTCUSDT\n0,"' + "9" * 140_000 + '"\n', r"line 2: not CSV"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_actions(write(tmp_path, text), BTC)


def test_a_missing_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        read_actions(tmp_path / "none.csv", BTC)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"step,BTCUSDT\n0,\xff\xfe\n")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        read_actions(path, BTC)
