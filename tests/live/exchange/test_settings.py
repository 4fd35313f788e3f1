"""Venues, credentials, and that no secret shows itself."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from envs.errors import ConfigError, CredentialsError
from live.settings import (
    Credentials,
    Secret,
    Venue,
    have_testnet_credentials,
    load_credentials,
    paper_venue,
    venue,
)

KEY, SECRET = "key-0123456789", "secret-0123456789"


def test_the_venues_of_binance() -> None:
    assert venue("live").rest_url == "https://fapi.binance.com"
    assert venue("testnet").ws_url == "wss://fstream.binancefuture.com"
    assert [venue(name).real_money for name in ("live", "testnet", "demo")] == [True, False, False]
    for name in ("paper", "tesnet"):
        with pytest.raises(ConfigError, match="Known venues: live, testnet, demo"):
            venue(name)


def test_a_paper_venue_is_a_url() -> None:
    paper = paper_venue("http://127.0.0.1:8000/", "ws://127.0.0.1:8000/")
    assert (paper.rest_url, paper.ws_url) == ("http://127.0.0.1:8000", "ws://127.0.0.1:8000")
    assert (paper.name, paper.real_money, paper.market_data) == ("paper", False, "simulated")
    with pytest.raises(ConfigError, match="rest_url"):
        paper_venue("127.0.0.1:8000", "ws://127.0.0.1:8000")
    with pytest.raises(ConfigError, match="ws_url"):
        paper_venue("http://127.0.0.1:8000", "http://127.0.0.1:8000")


def test_credentials_show_nothing_anywhere() -> None:
    credentials = Credentials(KEY, SECRET)
    shown = [
        repr(credentials),
        str(credentials),
        f"{credentials}",
        f"{credentials.api_key:>40}",
        repr(vars(credentials)),
    ]
    shown += [str(dataclasses.fields(credentials)), str(credentials.api_secret), repr([credentials])]
    shown.append("%s %r" % (credentials, credentials.api_secret))  # noqa: UP031
    for text in shown:
        assert KEY not in text
        assert SECRET not in text
    assert "****" in repr(credentials)
    assert credentials.api_secret.reveal() == SECRET


@pytest.mark.parametrize("act", [pickle.dumps, copy.deepcopy, dataclasses.asdict])
def test_credentials_are_not_copied_out(act: object) -> None:
    with pytest.raises(TypeError, match="not pickled"):
        act(Credentials(KEY, SECRET))  # type: ignore[operator]


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != "a"
    assert Credentials(KEY, SECRET) == Credentials(Secret(KEY), Secret(SECRET))


@pytest.mark.parametrize("bad", ["", " ", "with space", "newline\n", "schlüssel"])
def test_a_badly_copied_key_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(CredentialsError, match="copy it again") as caught:
        Credentials(KEY, bad)
    assert not bad.strip() or bad not in str(caught.value)


def test_each_venue_reads_its_own_variables() -> None:
    environ = {
        "BINANCE_API_KEY": "live-key",
        "BINANCE_API_SECRET": "live-secret",
        "BINANCE_TESTNET_API_KEY": " test-key ",
        "BINANCE_TESTNET_SECRET_KEY": "test-secret",
    }
    assert load_credentials(venue("live"), environ) == Credentials("live-key", "live-secret")
    assert load_credentials(venue("testnet"), environ) == Credentials("test-key", "test-secret")
    assert load_credentials(venue("demo"), environ) == Credentials("test-key", "test-secret")
    both = environ | {"BINANCE_TESTNET_API_SECRET": "first"}
    assert load_credentials(venue("testnet"), both).api_secret.reveal() == "first"


@pytest.mark.parametrize(
    ("name", "environ", "message"),
    [
        ("live", {}, "variables BINANCE_API_KEY and BINANCE_API_SECRET"),
        ("live", {"BINANCE_API_KEY": "k", "BINANCE_API_SECRET": " "}, "variable BINANCE_API_SECRET"),
        (
            "testnet",
            {"BINANCE_TESTNET_API_KEY": "k"},
            "variable BINANCE_TESTNET_API_SECRET or BINANCE_TESTNET_SECRET_KEY",
        ),
        (
            "live",
            {"BINANCE_API_KEY": "a b", "BINANCE_API_SECRET": "s"},
            "BINANCE_API_KEY / BINANCE_API_SECRET: the api key",
        ),
    ],
)
def test_missing_credentials_name_the_variables(name: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(CredentialsError, match=message):
        load_credentials(venue(name), environ)


def test_the_paper_exchange_reads_no_keys_from_the_environment() -> None:
    paper = paper_venue("http://127.0.0.1:1", "ws://127.0.0.1:1")
    with pytest.raises(CredentialsError, match="paper"):
        load_credentials(paper, {"BINANCE_API_KEY": "k", "BINANCE_API_SECRET": "s"})


def test_whether_the_testnet_can_be_used() -> None:
    assert not have_testnet_credentials({})
    for half in (
        {"BINANCE_TESTNET_API_KEY": "k", "BINANCE_TESTNET_API_SECRET": ""},
        {"BINANCE_TESTNET_SECRET_KEY": "s"},
    ):
        with pytest.raises(CredentialsError, match=r"is set, but not BINANCE_TESTNET_API_.*: set both"):
            have_testnet_credentials(half)
    assert have_testnet_credentials({"BINANCE_TESTNET_API_KEY": "k", "BINANCE_TESTNET_SECRET_KEY": "s"})


def test_a_venue_is_checked() -> None:
    with pytest.raises(ConfigError, match="permissions_url"):
        Venue("x", "http://h", "ws://h", "ftp://h", False, "simulated")
