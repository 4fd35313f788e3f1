"""The exception tree. Every error that perpgym raises on purpose descends from `PerpgymError`.

PerpgymError
├── InputError                 what the user gave cannot be used; nothing was changed (exit code 2)
│   ├── ConfigError            a setting is unknown, missing or out of range
│   ├── CandleError            a candle, mark or funding file breaks a rule; names the row
│   ├── InstrumentError        an unknown symbol, or a rule of the exchange that is missing
│   ├── ActionError            an action of the wrong shape, or not finite
│   ├── ObservationMismatchError   a policy met an environment with another observation
│   ├── TrainingRunError       a training run is unknown, incomplete or damaged
│   └── CredentialsError       an API key is missing or not fit for the purpose
├── StepLogError               the step log cannot be written or repaired
├── StoreError                 the database cannot be opened, read or written, or has another schema
├── LedgerError                an entry contradicts the ledger, or the ledger contradicts itself
├── ExchangeError              the exchange refused or failed; carries code and HTTP status
│   ├── OrderRejectedError     an order was refused: it does not exist at the exchange
│   ├── OutcomeUnknownError    an order may or may not exist: ask by its client order id
│   ├── ExchangeUnavailableError   the exchange does not answer or answers 5xx
│   ├── RateLimitedError       429 or 418; carries retry_after_s
│   ├── ClockSkewError         the request's timestamp was outside the receive window
│   └── AuthenticationError    key, signature, IP or permission refused, or the account may not trade now
├── MarketDataError            a stream or a history has a hole that could not be filled
├── HaltedError                the run was halted by an emergency and not yet acknowledged (exit code 3)
└── EmergencyError             the emergency protocol could not flatten the account (exit code 3)
"""

from __future__ import annotations


class PerpgymError(Exception):
    """Base of all errors raised by perpgym.

    `exit_code` is what a command line that ends with this error returns to the shell.
    """

    exit_code: int = 1


class InputError(PerpgymError):
    """What the user gave cannot be used. The message names the value and the remedy."""

    exit_code = 2


class ConfigError(InputError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class CandleError(InputError):
    """A file of candles, marks or funding breaks a rule.

    Attributes:
        row: zero-based index of the first offending row, or None when it is about the whole file.
    """

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class InstrumentError(InputError):
    """An unknown symbol, or a trading rule that is missing or inconsistent."""


class ActionError(InputError):
    """An action of the wrong shape, out of its space, or not finite."""


class ObservationMismatchError(InputError):
    """A policy was trained on another observation than the environment gives.

    Attributes:
        expected: hash of the observation that the policy was trained on.
        actual: hash of the observation of the environment.
    """

    def __init__(self, message: str, *, expected: str, actual: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class TrainingRunError(InputError):
    """A training run is unknown, incomplete or damaged."""


class CredentialsError(InputError):
    """An API key is missing, or not fit for what was asked of it."""


class StepLogError(PerpgymError):
    """The step log cannot be written or repaired."""


class StoreError(PerpgymError):
    """The database cannot be opened, read or written, or its schema is not the one expected."""


class LedgerError(PerpgymError):
    """An entry contradicts what the ledger holds, or what the ledger holds contradicts itself."""


class ExchangeError(PerpgymError):
    """The exchange refused or failed.

    Attributes:
        code: the exchange's own error code (negative at Binance), or None when there was none.
        http_status: HTTP status of the reply, or None when there was no reply.
        client_order_id: the order that it was about, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        http_status: int | None = None,
        client_order_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status
        self.client_order_id = client_order_id


class OrderRejectedError(ExchangeError):
    """The order was refused: it does not exist at the exchange."""


class OutcomeUnknownError(ExchangeError):
    """The order may or may not exist: ask by its client order id, never send it again blindly."""


class ExchangeUnavailableError(ExchangeError):
    """The exchange does not answer, or answers with a server error."""


class RateLimitedError(ExchangeError):
    """The exchange asks for fewer requests.

    Attributes:
        retry_after_s: seconds to wait before the next request.
        bearable_s: the same where waiting is worth it when an account is to be closed, else 0: shorter bans end, but
            the longest take days.
    """

    LONGEST_BEARABLE_S = 600.0

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        code: int | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message, code=code, http_status=http_status)
        self.retry_after_s = retry_after_s

    @property
    def bearable_s(self) -> float:
        """See the class."""
        return self.retry_after_s if self.retry_after_s <= self.LONGEST_BEARABLE_S else 0.0


class ClockSkewError(ExchangeError):
    """The request's timestamp was outside the exchange's receive window."""


class AuthenticationError(ExchangeError):
    """The exchange refused the key, the signature, the IP address or the permission, or any trade on the account."""


class MarketDataError(PerpgymError):
    """A stream or a history of candles has a hole that could not be filled."""


class HaltedError(PerpgymError):
    """The run was halted by the emergency protocol and has not been acknowledged.

    Attributes:
        reason: why it was halted.
    """

    exit_code = 3

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class EmergencyError(PerpgymError):
    """The emergency protocol ran out of tries before the account was flat."""

    exit_code = 3
