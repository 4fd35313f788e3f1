"""This account's modes, leverage, balances and positions at Binance, and what its API key may do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from envs.errors import ConfigError, CredentialsError, ExchangeError, OrderRejectedError
from live.exchange import parse
from live.exchange.base import ExchangeAccount
from live.exchange.error_codes import RULES, Outcome
from live.exchange.parse import Json, decimal_of
from live.exchange.rest import BinanceRest

_CONSISTENT_TRIES = 3
_ALREADY = frozenset(code for code, rule in RULES.items() if rule.outcome is Outcome.ALREADY)


class AccountReader:
    """Reads and sets what belongs to the account as a whole."""

    def __init__(self, rest: BinanceRest) -> None:
        self._rest = rest
        self._leverage: dict[str, int] = {}

    async def check_modes(self) -> None:
        """Raise a ConfigError unless the account may trade, in one-way mode with USDT as its only margin."""
        reply = await self._rest.read("futures_account_config")
        name = self._rest.venue.name
        if reply.get("canTrade") is False:
            raise ConfigError(f"the {name} account may not trade; ask the exchange why")
        if reply.get("dualSidePosition"):
            raise ConfigError(
                f"the {name} account is in hedge mode; perpgym trades in one-way mode: close all positions and set "
                f"'Position Mode' to 'One-way' in the exchange's preferences"
            )
        if reply.get("multiAssetsMargin"):
            raise ConfigError(
                f"the {name} account is in multi-assets mode; perpgym counts in USDT alone: close all positions and "
                f"set 'Asset Mode' to 'Single-Asset' in the exchange's preferences"
            )

    async def account_id(self) -> str:
        """The account's alias, a code of its own; empty for an account that holds no asset."""
        rows: list[Json] = await self._rest.read("futures_account_balance")
        return str(rows[0].get("accountAlias", "")) if rows else ""

    async def prepare(self, symbol: str, leverage: int | None) -> None:
        """Set a symbol to cross margin and to a leverage, None leaving that as it is.

        Raises:
            ConfigError: the exchange refuses one of them, e.g. because of an isolated position.
        """
        try:
            await self._rest.read("futures_change_margin_type", symbol=symbol, marginType="CROSSED")
        except OrderRejectedError as error:
            raise ConfigError(f"{symbol} cannot be set to cross margin: {error}") from error
        except ExchangeError as error:
            if error.code not in _ALREADY:
                raise
        if leverage is None:
            return
        try:
            await self.set_leverage(symbol, leverage)
        except OrderRejectedError as error:
            raise ConfigError(f"the leverage of {symbol} cannot be set to {leverage}: {error}") from error

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set a symbol's leverage."""
        reply = await self._rest.read("futures_change_leverage", symbol=symbol, leverage=leverage)
        with parse.reading("an answer about leverage"):
            self.know_leverage(symbol, int(reply["leverage"]))

    def know_leverage(self, symbol: str, leverage: int) -> None:
        """Remember a leverage setting: the listings of the account do not tell it."""
        self._leverage[symbol] = leverage

    async def account(self) -> ExchangeAccount:
        """Wallet, margins and positions, of one moment.

        Raises:
            ExchangeError: the two answers that it is made of never agree.
        """
        for _ in range(_CONSISTENT_TRIES):
            summary, risks = await asyncio.gather(
                self._rest.read("futures_account", version=3),
                self._rest.read("futures_position_information"),
            )
            with parse.reading("an account"):
                listed = {(row["symbol"], decimal_of(row["positionAmt"])) for row in summary["positions"]}
                rows = {row["symbol"]: row for row in risks if decimal_of(row["positionAmt"])}
                held = {(symbol, decimal_of(row["positionAmt"])) for symbol, row in rows.items()}
            if {one for one in listed if one[1]} == held:
                break
        else:
            raise ExchangeError(
                f"the account's two listings of positions differed in {_CONSISTENT_TRIES} readings; "
                f"something trades on it without pause. Read it again later"
            )
        await self._learn_leverage(rows)
        with parse.reading("an account"):
            usdt: Json = next((row for row in summary["assets"] if row["asset"] == "USDT"), {})
            return ExchangeAccount(
                time_ms=self._rest.clock.now_ms(),
                wallet_usdt=decimal_of(usdt.get("walletBalance")),
                available_usdt=decimal_of(usdt.get("availableBalance")),
                initial_margin_usdt=decimal_of(summary["totalInitialMargin"]),
                maintenance_margin_usdt=decimal_of(summary["totalMaintMargin"]),
                positions={
                    symbol: parse.position(row, self._leverage[symbol]) for symbol, row in rows.items()
                },
            )

    async def _learn_leverage(self, symbols: Iterable[str]) -> None:
        if all(symbol in self._leverage for symbol in symbols):
            return
        rows = await self._rest.read("futures_symbol_config")
        with parse.reading("the symbols' settings"):
            for row in rows:
                self.know_leverage(str(row["symbol"]), int(row["leverage"]))

    async def check_withdrawals_disabled(self) -> None:
        """Raise a CredentialsError unless the API key provably cannot withdraw.

        The futures API tells only what the account may do (`canWithdraw`, true for nearly everyone), not the key.
        Binance's spot API does (`/sapi/v1/account/apiRestrictions`), and is asked for it at the venue's
        `permissions_url`. An answer that does not say it counts as "can".
        """
        name = self._rest.venue.name
        try:
            reply = await self._rest.read("get_account_api_permissions")
        except ExchangeError as error:
            raise CredentialsError(
                f"it cannot be checked whether the API key of {name} may withdraw: {error}"
            ) from error
        if reply.get("enableWithdrawals") is not False:
            raise CredentialsError(
                f"the API key of {name} may withdraw funds; make one for trading with 'Enable Withdrawals' off"
            )
        if reply.get("enableFutures") is False:
            raise CredentialsError(
                f"the API key of {name} may not trade futures; turn on 'Enable Futures' for it"
            )
