"""Where the exchange is, and with which key: venues and credentials.

Credentials come from the environment, show as `****` wherever they are printed, and are never pickled.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn
from urllib.parse import urlsplit

from envs.errors import ConfigError, CredentialsError

MASK = "****"

MarketData = Literal["real", "testnet", "simulated"]


class Secret:
    """A string that never shows itself; `reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself. Give it to nothing that logs."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, _: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a secret is not pickled or copied to another process; read it from the environment there"
        )


@dataclass(frozen=True, init=False)
class Credentials:
    """An API key and its secret. Both are masked in `repr` and `str`, and refuse to be pickled.

    Raises:
        CredentialsError: one is empty, or holds white space (a copying mistake).
    """

    api_key: Secret
    api_secret: Secret

    def __init__(self, api_key: str | Secret, api_secret: str | Secret) -> None:
        for name, value in (("api_key", api_key), ("api_secret", api_secret)):
            secret = value if isinstance(value, Secret) else Secret(value)
            text = secret.reveal()
            if not text or any(character.isspace() for character in text) or not text.isascii():
                raise CredentialsError(
                    f"the {name.replace('_', ' ')} is empty or holds white space or non-ASCII characters; copy it again"
                )
            object.__setattr__(self, name, secret)


@dataclass(frozen=True, slots=True)
class Venue:
    """One exchange, by its URLs.

    Attributes:
        name: paper, testnet, demo or live.
        rest_url: base of the REST paths, without `/fapi`.
        ws_url: base of the stream paths.
        permissions_url: host that tells what an API key may do (Binance's spot API; futures does not tell).
        real_money: whether orders cost real money.
        market_data: `real` prices, the `testnet`'s own thin market, or `simulated`.
    """

    name: str
    rest_url: str
    ws_url: str
    permissions_url: str
    real_money: bool
    market_data: MarketData

    def __post_init__(self) -> None:
        for field, schemes in (
            ("rest_url", ("http", "https")),
            ("ws_url", ("ws", "wss")),
            ("permissions_url", ("http", "https")),
        ):
            url = getattr(self, field)
            parts = urlsplit(url)
            if parts.scheme not in schemes or not parts.netloc or parts.query or "{" in url:
                raise ConfigError(f"{field} is {url!r}; give a URL such as {schemes[-1]}://host:port")
            object.__setattr__(self, field, url.rstrip("/"))


_LIVE = Venue(
    name="live",
    rest_url="https://fapi.binance.com",
    ws_url="wss://fstream.binance.com",
    permissions_url="https://api.binance.com",
    real_money=True,
    market_data="real",
)
_TESTNET = Venue(
    name="testnet",
    rest_url="https://testnet.binancefuture.com",
    ws_url="wss://fstream.binancefuture.com",
    permissions_url="https://testnet.binance.vision",
    real_money=False,
    market_data="testnet",
)
_DEMO = Venue(
    name="demo",
    rest_url="https://demo-fapi.binance.com",
    ws_url="wss://demo-fstream.binance.com",
    permissions_url="https://demo-api.binance.com",
    real_money=False,
    market_data="testnet",
)
_VENUES: Mapping[str, Venue] = {"live": _LIVE, "testnet": _TESTNET, "demo": _DEMO}

_VARIABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "live": (("BINANCE_API_KEY",), ("BINANCE_API_SECRET",)),
    "testnet": (
        ("BINANCE_TESTNET_API_KEY",),
        ("BINANCE_TESTNET_API_SECRET", "BINANCE_TESTNET_SECRET_KEY"),
    ),
}


def venue(name: str) -> Venue:
    """A venue of Binance by name: `live`, `testnet` or `demo` (the testnet's newer address).

    Raises:
        ConfigError: another name; the paper exchange is a URL, see `paper_venue`.
    """
    if name in _VENUES:
        return _VENUES[name]
    hint = " The paper exchange has no fixed address: give its URLs." if name == "paper" else ""
    raise ConfigError(f"unknown venue {name!r}.{hint} Known venues: {', '.join(_VENUES)}")


def paper_venue(rest_url: str, ws_url: str) -> Venue:
    """The venue of a paper exchange that runs at these URLs."""
    return Venue(
        name="paper",
        rest_url=rest_url,
        ws_url=ws_url,
        permissions_url=rest_url,
        real_money=False,
        market_data="simulated",
    )


def _variables_of(venue_name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _VARIABLES["live" if venue_name == "live" else "testnet"]


def _first_set(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    return next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")


def load_credentials(venue: Venue, environ: Mapping[str, str]) -> Credentials:
    """The credentials of a venue from environment variables.

    `live`: BINANCE_API_KEY, BINANCE_API_SECRET. `testnet` and `demo`: BINANCE_TESTNET_API_KEY and
    BINANCE_TESTNET_API_SECRET, or BINANCE_TESTNET_SECRET_KEY.

    Raises:
        CredentialsError: a variable is missing (the message names it) or cannot be a key.
    """
    if venue.name == "paper":
        raise CredentialsError("the paper exchange has no keys in the environment; give those of its account")
    keys, secrets = _variables_of(venue.name)
    key, secret = _first_set(keys, environ), _first_set(secrets, environ)
    missing = [" or ".join(names) for names, value in ((keys, key), (secrets, secret)) if not value]
    if missing:
        raise CredentialsError(
            f"no credentials for {venue.name}: set the environment variable{'s' * (len(missing) > 1)} "
            f"{' and '.join(missing)}"
        )
    try:
        return Credentials(key, secret)
    except CredentialsError as error:
        raise CredentialsError(f"{' / '.join((*keys, *secrets))}: {error}") from None


def have_testnet_credentials(environ: Mapping[str, str]) -> bool:
    """Whether both of the testnet's variables are set.

    Raises:
        CredentialsError: only one of them is, so that the testnet was meant and another venue would be taken.
    """
    keys, secrets = _variables_of("testnet")
    found = [bool(_first_set(names, environ)) for names in (keys, secrets)]
    if any(found) and not all(found):
        present, missing = (keys, secrets) if found[0] else (secrets, keys)
        name = next(one for one in present if environ.get(one, "").strip())
        raise CredentialsError(
            f"{name} is set, but not {' or '.join(missing)}: set both for the testnet, or neither for paper "
            "(--paper takes paper in any case)"
        )
    return all(found)
