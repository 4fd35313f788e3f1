"""Which exchange a run trades on, and the paper exchange that is started for it."""

from __future__ import annotations

import http.client
import json
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

from agents.base import AgentSetup
from agents.data import load_market
from envs.candles import interval_name, parse_time_ms
from envs.errors import CandleError, ConfigError, ExchangeUnavailableError
from envs.features import market_features
from envs.instruments import Instrument, get_instruments
from envs.market import Market
from envs.planning import to_decimal
from envs.synthetic import synthetic_market
from live.settings import Credentials, Venue, have_testnet_credentials, load_credentials, paper_venue, venue

if TYPE_CHECKING:
    from live.paper.runtime import PaperServer

_PAPER_KEY = "paper"
_SYNTHETIC_CANDLES = 10_000
_CONTROL_TIMEOUT_S = 30.0
_SYNTHETIC = "a SYNTHETIC market: these prices were never traded"


class VenueChoice(StrEnum):
    """What the user asked for."""

    AUTO = "auto"  # the testnet when its credentials are set, else paper
    PAPER = "paper"
    TESTNET = "testnet"
    LIVE = "live"


@dataclass(frozen=True)
class PaperOptions:
    """The embedded exchange's market.

    market: ready-made; else `candles` are replayed, or a synthetic market is made.
    speed: candle time over wall time; None is lock-step, as fast as the agent.
    url: an exchange that already runs elsewhere (`python -m live.paper`), instead of a new one.
    sub_accounts: of a new exchange, beside its first account: names, which are their API keys, and wallets in USDT.
    """

    candles: tuple[Path, ...] = ()
    funding: tuple[Path, ...] = ()
    marks: tuple[Path, ...] = ()
    start: str | int | None = None
    end: str | int | None = None
    market: Market | None = field(default=None, repr=False)
    speed: float | None = None
    url: str | None = None
    api_key: str = _PAPER_KEY
    api_secret: str = field(default=_PAPER_KEY, repr=False)
    seed: int = 0
    sub_accounts: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass
class VenueSession:
    """An exchange to trade on.

    Attributes:
        venue, credentials: for the connector.
        account_key: tells accounts apart in state files, e.g. `testnet` or `paper_127.0.0.1_8000`.
        description: for the banner.
        synthetic: whether nobody ever traded these prices.
        fresh: whether the account is new with this session, so that no earlier session was on it.
        lock_step: asks for candles, None when the market moves by itself.
        server: the exchange started for this session.
    """

    venue: Venue
    credentials: Credentials
    account_key: str
    description: str
    synthetic: bool = False
    fresh: bool = False
    lock_step: LockStep | None = None
    server: PaperServer | None = None

    def close(self) -> None:
        """Stop the exchange that was started for this session."""
        if self.server is not None:
            self.server.stop()
            self.server = None


def open_venue(
    choice: VenueChoice,
    paper: PaperOptions,
    setup: AgentSetup,
    symbols: Sequence[str],
    interval_ms: int,
    environ: Mapping[str, str],
) -> VenueSession:
    """Settle where to trade and start the paper exchange if it is that.

    Raises:
        CredentialsError: keys for the asked venue are missing.
        ConfigError, CandleError: the paper exchange's market cannot be made of what was given.
    """
    if choice is VenueChoice.AUTO:
        wants_paper = bool(paper.candles or paper.url)
        testnet = not wants_paper and have_testnet_credentials(environ)
        choice = VenueChoice.TESTNET if testnet else VenueChoice.PAPER
    if choice is VenueChoice.PAPER:
        return _open_paper(paper, setup, symbols, interval_ms)
    if paper.candles or paper.url:
        raise ConfigError(f"--candles and --paper-url are for the paper exchange, not for {choice.value}")
    place = venue(choice.value)
    return VenueSession(place, load_credentials(place, environ), place.name, _BINANCE_TEXTS[choice])


@dataclass(frozen=True)
class AccountVenue:
    """An account that exists without this process. `description` is for people; `account_key` as of a session."""

    venue: Venue
    credentials: Credentials
    description: str

    @property
    def account_key(self) -> str:
        """Tells accounts apart, e.g. `testnet` or `paper_127.0.0.1_8000`."""
        return _account_key(self.venue)


_BINANCE_TEXTS = {
    VenueChoice.TESTNET: "Binance futures testnet: real connections, play money",
    VenueChoice.LIVE: "BINANCE FUTURES, REAL MONEY",
}


def account_venue(choice: VenueChoice, paper: PaperOptions, environ: Mapping[str, str]) -> AccountVenue:
    """The account that is meant, without an agent and a market: for looking at it, or closing it.

    Raises:
        ConfigError: the embedded paper exchange is meant, whose accounts end with their session.
        CredentialsError: keys for the venue are missing.
    """
    if choice is VenueChoice.AUTO:
        testnet = paper.url is None and have_testnet_credentials(environ)
        choice = VenueChoice.TESTNET if testnet else VenueChoice.PAPER
    if choice is not VenueChoice.PAPER:
        if paper.url is not None:
            raise ConfigError(f"--paper-url is for the paper exchange, not for {choice.value}")
        place = venue(choice.value)
        return AccountVenue(place, load_credentials(place, environ), _BINANCE_TEXTS[choice])
    if paper.url is None:
        raise ConfigError(
            "an embedded paper exchange ends with its session, so there is no account left; give --paper-url URL, "
            "--testnet or --live"
        )
    place = _paper_place(paper.url)
    _paper_state(place.rest_url)
    return AccountVenue(
        place, Credentials(paper.api_key, paper.api_secret), f"paper exchange at {place.rest_url}"
    )


def _paper_place(url: str) -> Venue:
    rest = url.rstrip("/")
    if not rest.startswith(("http://", "https://")):
        raise ConfigError(f"--paper-url {url!r}: give a URL such as http://127.0.0.1:8899")
    return paper_venue(rest, re.sub(r"^http", "ws", rest))


def _account_key(place: Venue) -> str:
    if place.name != "paper":
        return place.name
    return "paper_" + re.sub(r"[^A-Za-z0-9.]+", "_", place.rest_url.split("://", 1)[-1])


def _open_paper(
    paper: PaperOptions, setup: AgentSetup, symbols: Sequence[str], interval_ms: int
) -> VenueSession:
    credentials = Credentials(paper.api_key, paper.api_secret)
    if paper.url is not None:
        if paper.candles:
            raise ConfigError(
                "give --candles or --paper-url, not both: a running exchange has its own market"
            )
        place = _paper_place(paper.url)
        rest = place.rest_url
        key = _account_key(place)
        state = _paper_state(rest)
        if state["interval"] != interval_name(interval_ms):
            raise ConfigError(
                f"the paper exchange at {rest} plays candles of {state['interval']}, the agent steps every "
                f"{interval_name(interval_ms)}; give --interval {state['interval']}, or start another exchange"
            )
        lock_step = LockStep(rest) if state["speed"] is None else None
        synthetic = bool(state.get("synthetic"))
        what = f"paper exchange at {rest}" + (f", {_SYNTHETIC}" if synthetic else "")
        return VenueSession(place, credentials, key, what, synthetic=synthetic, lock_step=lock_step)

    # Imported here: a run on the testnet or with real money needs no web server.
    from live.paper.account import PaperAccount
    from live.paper.feeds import ReplayFeed
    from live.paper.runtime import PaperServer

    market = paper_market(paper, symbols, interval_ms)
    first = first_decision_index(market, setup, paper.start)
    accounts = [PaperAccount(paper.api_key, paper.api_secret, to_decimal(setup.env.initial_capital_usdt))]
    accounts += [
        PaperAccount(name, paper.api_secret, wallet_usdt) for name, wallet_usdt in paper.sub_accounts.items()
    ]
    server = PaperServer.start(
        ReplayFeed(market, first + 1, paper.speed),
        tuple(accounts),
        slippage_bps=to_decimal(setup.env.slippage_bps),
        instruments=_paper_instruments(setup, symbols),
    )
    what = _SYNTHETIC if market.synthetic else f"replayed candles {market.candles[0].source}"
    return VenueSession(
        venue=paper_venue(server.rest_url, server.ws_url.rstrip("/")),
        credentials=credentials,
        account_key="paper",
        description=f"embedded paper exchange, {what}",
        synthetic=market.synthetic,
        fresh=True,
        lock_step=LockStep(server.rest_url) if paper.speed is None else None,
        server=server,
    )


def paper_market(paper: PaperOptions, symbols: Sequence[str], interval_ms: int) -> Market:
    """The replayed or synthetic market of the embedded exchange.

    Raises:
        ConfigError: the candles have another interval than the agent needs.
    """
    if paper.market is not None:
        return paper.market
    if not paper.candles:
        return synthetic_market(
            tuple(symbols), interval=interval_name(interval_ms), n=_SYNTHETIC_CANDLES, seed=paper.seed
        )
    market = load_market(
        paper.candles, funding=paper.funding, marks=paper.marks, symbols=tuple(symbols), end=paper.end
    )
    if market.interval_ms != interval_ms:
        raise ConfigError(
            f"the candles are of {market.candles[0].interval}, the agent steps every {interval_ms // 60_000} min; "
            "give candles of the agent's interval, or --interval"
        )
    return market


def first_decision_index(market: Market, setup: AgentSetup, start: str | int | None) -> int:
    """Index of the candle at whose close the first decision is made: the same as in a backtest.

    Raises:
        CandleError: the market is too short.
    """
    warmup = market_features(market, setup.features).warmup
    first = warmup + setup.env.window_size - 1
    start_ms = parse_time_ms(start)
    if start_ms is not None:
        first = max(first, int(np.searchsorted(market.open_time_ms, start_ms)))
    if first + 1 >= len(market):
        raise CandleError(
            f"no candle is left to play: {len(market)} candles, the first decision would be on number {first}; "
            "give more candles or an earlier --start"
        )
    return first


def _paper_instruments(setup: AgentSetup, symbols: Sequence[str]) -> dict[str, Instrument]:
    fee = setup.env.taker_fee_fraction
    taker: Decimal | None = None if fee is None else to_decimal(fee)
    return {i.symbol: i.with_fees(taker_fee=taker) for i in get_instruments(symbols)}


class LockStep:
    """Asks a paper exchange in lock-step for the next candle."""

    def __init__(self, rest_url: str) -> None:
        self._rest_url = rest_url
        self._session: aiohttp.ClientSession | None = None
        self._remaining: int | None = None

    async def request_candle(self) -> bool | None:
        """Have one candle played; tells whether another follows it, or None when there was none left.

        Raises:
            ExchangeUnavailableError: the exchange refused or is gone.
        """
        if self._remaining is None:
            self._remaining = await self._ask("GET", "/paper/state")
        if self._remaining == 0:
            return None
        self._remaining = await self._ask("POST", "/paper/advance", json={"candles": 1})
        return self._remaining > 0

    async def _ask(self, method: str, path: str, **body: Any) -> int:
        """A request to the control routes; how many candles are left to be played."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CONTROL_TIMEOUT_S))
        url = f"{self._rest_url}{path}"
        try:
            async with self._session.request(method, url, **body) as reply:
                answer = await reply.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ExchangeUnavailableError(
                f"{url} does not answer: {error or type(error).__name__}"
            ) from error
        if not isinstance(answer, dict) or not isinstance(answer.get("remaining"), int):
            raise ExchangeUnavailableError(f"{url} answered {answer}", http_status=reply.status)
        remaining: int = answer["remaining"]
        return remaining

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _paper_state(rest_url: str) -> dict[str, Any]:
    """What a running paper exchange says of itself.

    Raises:
        ConfigError: none runs there.
    """
    url = f"{rest_url}/paper/state"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            state = json.load(reply)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(
            f"no paper exchange answers at {url} ({error}); start one with `python -m live.paper`, or correct "
            "--paper-url"
        ) from error
    if not isinstance(state, dict) or not {"speed", "symbols", "interval"} <= state.keys():
        raise ConfigError(f"what answers at {url} is not perpgym's paper exchange; correct --paper-url")
    return state
