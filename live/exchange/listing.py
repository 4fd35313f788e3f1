"""Which contracts Binance lists, and their trading rules with this account's brackets and fees."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

from envs.errors import CredentialsError, InstrumentError, OrderRejectedError
from envs.instruments import Instrument, default_instruments
from live.exchange import parse
from live.exchange.error_codes import INVALID_SYMBOL
from live.exchange.parse import Json, decimal_of
from live.exchange.rest import BinanceRest


class Listing:
    """Reads exchangeInfo, leverageBracket and commissionRate."""

    def __init__(self, rest: BinanceRest) -> None:
        self._rest = rest

    async def symbols(self) -> tuple[str, ...]:
        """All perpetual contracts that trade now."""
        return tuple(name for name, entry in (await self._listed()).items() if _is_tradable(entry))

    async def prices(self) -> dict[str, Decimal]:
        """Last prices of all contracts."""
        rows = await self._rest.read("futures_symbol_ticker")
        with parse.reading("the prices"):
            return {str(row["symbol"]): Decimal(row["price"]) for row in rows}

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Instruments by symbol; without a key, brackets and fees come from the bundled table.

        Raises:
            InstrumentError: a symbol is not listed or not a trading perpetual, or its rules cannot be read.
            CredentialsError: there is no key, and the bundled table does not have the symbol.
        """
        if not symbols:
            return {}
        if not self._rest.has_key:
            listed = await self._listed()
            return {symbol: self._public(self._checked(symbol, listed)) for symbol in symbols}
        listed, bracket_reply, fees = await asyncio.gather(
            self._listed(),
            self._rest.read("futures_leverage_bracket"),
            # An unknown symbol is refused here too, but the listing can say which was meant.
            asyncio.gather(
                *(self._rest.read("futures_commission_rate", symbol=symbol) for symbol in symbols),
                return_exceptions=True,
            ),
        )
        entries = [self._checked(symbol, listed) for symbol in symbols]
        brackets = parse.brackets(bracket_reply)
        found = {}
        for symbol, entry, fee in zip(symbols, entries, fees, strict=True):
            if isinstance(fee, BaseException):
                raise fee
            with parse.reading(f"the fees of {symbol}"):
                maker, taker = (decimal_of(fee[f"{one}CommissionRate"]) for one in ("maker", "taker"))
            found[symbol] = parse.instrument(
                entry, brackets.get(symbol, ()), maker_fee=maker, taker_fee=taker
            )
        return found

    def _public(self, entry: Json) -> Instrument:
        bundled = default_instruments().get(str(entry["symbol"]))
        if bundled is None:
            raise CredentialsError(
                f"{entry['symbol']}: its leverage brackets and fees are told only to an account; give credentials"
            )
        return parse.instrument(
            entry, bundled.brackets, maker_fee=bundled.maker_fee, taker_fee=bundled.taker_fee
        )

    async def _listed(self) -> dict[str, Json]:
        reply = await self._rest.read("futures_exchange_info")
        with parse.reading("its list of contracts"):
            self._rest.budget.learn_limits(reply.get("rateLimits"))
            return {str(entry["symbol"]): entry for entry in reply["symbols"]}

    def _checked(self, symbol: str, listed: Mapping[str, Json]) -> Json:
        entry = listed.get(symbol)
        name = self._rest.venue.name
        if entry is None:
            raise InstrumentError(f"{name} has no symbol {symbol!r}.{_near(symbol, listed)}")
        if not _is_tradable(entry):
            raise InstrumentError(
                f"{symbol} at {name} is {entry.get('contractType')} and {entry.get('status')}; "
                f"only contracts that are PERPETUAL and TRADING can be used"
            )
        return entry

    async def check(self, symbol: str) -> None:
        """Raise an InstrumentError unless the symbol is listed, whatever its state."""
        listed = await self._listed()
        if symbol not in listed:
            raise InstrumentError(f"{self._rest.venue.name} has no symbol {symbol!r}.{_near(symbol, listed)}")


def _is_tradable(entry: Json) -> bool:
    return bool(entry.get("status") == "TRADING" and entry.get("contractType") == "PERPETUAL")


def _near(symbol: str, listed: Mapping[str, Json]) -> str:
    near = difflib.get_close_matches(symbol.upper(), listed, n=1)
    return f" Did you mean {near[0]}?" if near else ""


@contextmanager
def naming_unknown_symbol(symbol: str, exchange: str) -> Iterator[None]:
    """Turn the exchange's "Invalid symbol" into an InstrumentError."""
    try:
        yield
    except OrderRejectedError as error:
        if error.code == INVALID_SYMBOL:
            raise InstrumentError(f"{exchange} has no symbol {symbol!r}; check the spelling") from error
        raise
