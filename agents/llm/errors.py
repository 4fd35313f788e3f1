"""What can go wrong between an agent and its model. All of it ends in HOLD, except what is wrong from the start."""

from __future__ import annotations

from envs.errors import InputError, PerpgymError


class ProviderError(PerpgymError):
    """The provider failed, refused, or did not answer in time. Never holds a key.

    Attributes:
        retryable: asking again may help.
        retry_after_s: how long the provider asks to wait, or None.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class InvalidReplyError(PerpgymError):
    """The reply is not a decision. `repairable`: telling the model what is wrong may help."""

    def __init__(self, message: str, *, repairable: bool = True) -> None:
        super().__init__(message)
        self.repairable = repairable


class CacheMissError(InputError):
    """Offline, and this request was never answered before."""
