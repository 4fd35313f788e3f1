"""Agents of a live arena that have real sub-accounts of their own, beside those that share one."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from live_arena import HOLDER, RULE, SYMBOLS, arena_of, board_of, exchange, notices, play

from envs.errors import ConfigError, CredentialsError
from envs.synthetic import synthetic_market
from live.ledger import Ledger
from live.ledger.identity import check_identity
from live.paper.account import Account, PaperAccount

AGENTS = {"cross": RULE, "hold": HOLDER, "own": {**RULE, "real_account": "one"}}
KEYS = {"BINANCE_SUB_ONE_API_KEY": "one", "BINANCE_SUB_ONE_API_SECRET": "its-secret"}


def accounts_of(folder: Path) -> dict[str, str]:
    told: dict[str, str] = json.loads((folder / "leaderboard.json").read_text())["accounts"]
    return told


def holds(folder: Path, account: str, books: Account) -> bool:
    """Whether the ledger's account is the exchange's, to the last unit."""
    ledger = Ledger.open(str(folder / "arena.db"))
    try:
        return check_identity(
            ledger,
            account,
            exchange_wallet=books.wallet_usdt,
            exchange_quantities={one.symbol: one.quantity for one in books.held()},
        ).holds
    finally:
        ledger.close()


def test_each_account_is_kept_by_itself_over_a_restart(tmp_path: Path) -> None:
    config = arena_of(tmp_path, AGENTS)
    own = PaperAccount("one", "its-secret", Decimal(300))
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=60, seed=3), PaperAccount(), own) as server:
        books = server.exchange.engine.accounts
        first = board_of(play(config, tmp_path, server, steps=6, environ=KEYS))
        assert {name: (one.capital, one.steps) for name, one in first.items()} == {
            "cross": (1000.0, 6), "hold": (1000.0, 6), "own": (300.0, 6),
        }  # fmt: skip
        names = accounts_of(tmp_path)
        assert names["cross"] == names["hold"] != names["own"]
        assert names["own"].endswith(".one")
        assert books["one"].orders and books["paper"].orders
        assert {order.client_order_id.split("_")[0] for order in books["one"].orders.values()} == {"own"}
        assert "own" not in {order.client_order_id.split("_")[0] for order in books["paper"].orders.values()}
        again = board_of(play(config, tmp_path, server, steps=4, environ=KEYS))
        assert {one.steps for one in again.values()} == {10}
        assert accounts_of(tmp_path) == names
        for key, name in (("paper", names["cross"]), ("one", names["own"])):
            assert holds(tmp_path, name, books[key])
        prices = server.exchange.engine.mark_prices
        worth = books["one"].wallet_usdt + sum(
            one.quantity * (prices[one.symbol] - one.entry_price) for one in books["one"].held()
        )
        assert again["own"].equity == pytest.approx(float(worth), abs=1e-9)


def test_an_embedded_exchange_has_the_real_accounts_too(tmp_path: Path) -> None:
    agents = {**AGENTS, "own": {**AGENTS["own"], "capital_usdt": 250.0}}
    board = board_of(play(arena_of(tmp_path, agents), tmp_path, steps=5))
    assert {name: one.capital for name, one in board.items()} == {
        "cross": 1000.0, "hold": 1000.0, "own": 250.0,
    }  # fmt: skip
    assert {one.steps for one in board.values()} == {5}
    alone = tmp_path / "alone"
    alone.mkdir()
    assert board_of(play(arena_of(alone, {"own": agents["own"]}), alone, steps=2))["own"].capital == 250.0


def test_an_account_that_is_halted_halts_nobody_else(tmp_path: Path) -> None:
    agents = {"still": {"agent": "flat"}, "own": {**HOLDER, "real_account": "one"}}
    config = arena_of(tmp_path, agents, account={"max_drawdown_fraction": 0.002})
    market = synthetic_market(SYMBOLS, interval="1h", n=60, seed=5, falling=True)
    with exchange(market, PaperAccount(), PaperAccount("one", "its-secret", Decimal(300))) as server:
        result = play(config, tmp_path, server, steps=25, environ=KEYS)
        board = board_of(result)
        assert result.exit_code == 3
        assert board["own"].steps < 25 and board["still"].steps == 25
        assert not any(server.exchange.engine.accounts["one"].held())
        halted = notices(tmp_path)
        assert halted.count("the whole account was halted: the account's drawdown") == 1
        assert f"({accounts_of(tmp_path)['own']})" in halted


@pytest.mark.parametrize(
    ("second", "environ", "error", "told"),
    [
        ({}, {}, CredentialsError, "BINANCE_SUB_ONE_API_KEY and BINANCE_SUB_ONE_API_SECRET"),
        ({"real_account": "one"}, KEYS, ConfigError, "the real account one belongs to one agent"),
    ],
)
def test_what_cannot_be_opened_is_refused_before_anything_is_traded(
    second: dict[str, str], environ: dict[str, str], error: type[Exception], told: str, tmp_path: Path
) -> None:
    config = arena_of(tmp_path, {"own": AGENTS["own"], "two": {**HOLDER, **second}})
    with exchange(synthetic_market(SYMBOLS, interval="1h", n=40, seed=3)) as server:
        with pytest.raises(error, match=told):
            play(config, tmp_path, server, steps=2, environ=environ)
        assert not server.exchange.engine.accounts["paper"].orders
    assert not (tmp_path / "leaderboard.json").exists()
