"""The section `connection` of a run's config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.config import read_yaml
from envs.errors import ConfigError
from live.exchange.connection import ConnectionSettings
from live.settings import paper_venue

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "live" / "connection.yaml"


def test_the_shipped_file_has_every_key_at_its_default() -> None:
    values = read_yaml(SHIPPED)
    assert list(values) == ["connection"]
    assert list(values["connection"]) == list(ConnectionSettings.model_fields)
    assert ConnectionSettings.parse(values["connection"]) == ConnectionSettings()


def test_settings_reach_the_connector() -> None:
    settings = ConnectionSettings.parse(
        {
            "attempts": 5,
            "retry_delay_s": 0.5,
            "longest_delay_s": 3,
            "receive_window_ms": 700,
            "dead_man_s": 60,
        }
    )
    made = settings.connector(paper_venue("http://127.0.0.1:1", "ws://127.0.0.1:1"), None, ("BTCUSDT",))
    policy = made._rest.policy
    assert (policy.attempts, policy.delay_s, policy.longest_delay_s) == (5, 0.5, 3.0)
    assert made._rest.recv_window_ms == 700
    assert made._dead_man is not None
    plain = ConnectionSettings().connector(paper_venue("http://127.0.0.1:1", "ws://127.0.0.1:1"), None, ())
    assert plain._dead_man is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dead_man": 60}, "unknown setting 'dead_man', did you mean 'dead_man_s'"),
        ({"dead_man_s": 1}, "dead_man_s = 1"),
        ({"attempts": 0}, "attempts = 0"),
        ({"retry_delay_s": float("inf")}, "retry_delay_s"),
        ({"receive_window_ms": 60_001}, "receive_window_ms = 60001"),
    ],
)
def test_what_cannot_be_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConnectionSettings.parse(values, where="connection")
