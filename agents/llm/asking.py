"""One decision's conversation: the question, at most one retry, at most one repair, and a time limit over all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agents.llm.cache import Cached, ReplayCache
from agents.llm.decision import Decision, parse_decision
from agents.llm.errors import CacheMissError, InvalidReplyError, ProviderError
from agents.llm.prompt import PromptBook
from agents.llm.request import Message, Provider, Reply, Request, Usage
from agents.llm.text import plain, storable

_QUOTED_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Heard:
    """What a conversation came to: a decision, or why there is none.

    Attributes:
        failure: no reply came.  problem: the reply is no decision.
        request: the last question.
        calls: replies asked of the provider, failed ones too.  replayed: replies from the cache.
    """

    request: Request
    decision: Decision | None = None
    failure: str = ""
    problem: str = ""
    reply: str = ""
    usage: Usage = field(default_factory=Usage)
    calls: int = 0
    replayed: int = 0
    latency_ms: int = 0
    repaired: bool = False


class Asking:
    """Asks a provider through the replay cache.

    Args:
        provider: None when offline.
        clock: seconds, monotonic; measures latency and nothing else.
        spent: told before each call, without tokens, and the tokens of each reply as soon as it is there.
    """

    def __init__(
        self,
        provider: Provider | None,
        cache: ReplayCache,
        book: PromptBook,
        *,
        timeout_s: float,
        retry_delay_s: float,
        clock: Callable[[], float],
        spent: Callable[[Usage], None] = lambda _usage: None,
    ) -> None:
        self._provider = provider
        self._cache = cache
        self._book = book
        self._timeout_s = timeout_s
        self._retry_delay_s = retry_delay_s
        self._clock = clock
        self._spent = spent

    async def decide(self, request: Request, symbols: tuple[str, ...]) -> Heard:
        """The decision of the model.

        Raises:
            CacheMissError: offline, and the question is new.
        """
        heard = Heard(request)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        retried = False
        for last in (False, True):
            try:
                reply, heard, retried = await self._reply(heard, deadline, retried)
            except _NoReply as none:
                return none.heard
            try:
                decision = _understood(reply, symbols)
            except InvalidReplyError as error:
                heard = replace(heard, problem=plain(str(error), 300))
                if last or not error.repairable:
                    return heard
                heard = replace(heard, request=self._repair(heard, reply), repaired=True)
            else:
                return replace(heard, decision=decision, problem="")
        return heard

    def _repair(self, heard: Heard, reply: Reply) -> Request:
        said = Message("assistant", reply.text[:_QUOTED_CHARS].strip() or "(no words)")
        asked = Message("user", self._book.repair(heard.problem))
        return replace(heard.request, messages=(*heard.request.messages, said, asked))

    async def _reply(self, heard: Heard, deadline: float, retried: bool) -> tuple[Reply, Heard, bool]:
        request = heard.request
        key = request.key
        cached = self._cache.get(key)
        if cached is not None and cached.reply is not None:
            heard = replace(heard, replayed=heard.replayed + 1)
            return cached.reply, _took(heard, cached.reply, cached.latency_ms), retried
        if self._provider is None:
            if cached is None:
                raise CacheMissError(
                    f"offline, and the replay cache {self._cache.folder} has no reply to this question "
                    f"({key[:16]}, model {request.model}): run once without --offline, with the same settings, "
                    "candles and prompt"
                )
            raise _NoReply(replace(heard, failure=cached.failure, replayed=heard.replayed + 1))
        while True:
            began = self._clock()
            heard = replace(heard, calls=heard.calls + 1)
            self._spent(Usage())
            try:
                reply = await _before(deadline, self._provider.ask(request), self._timeout_s)
            except ProviderError as error:
                heard = replace(heard, latency_ms=heard.latency_ms + self._since(began))
                wait_s = self._retry_delay_s if error.retry_after_s is None else error.retry_after_s
                left_s = deadline - asyncio.get_running_loop().time()
                if retried or not error.retryable or wait_s >= left_s:
                    text = f"{error}, also after a retry" if retried else str(error)
                    self._cache.put(request, Cached(None, text, self._since(began)))
                    raise _NoReply(replace(heard, failure=text)) from None
                retried = True
                await asyncio.sleep(wait_s)
                continue
            self._spent(reply.usage)
            reply = replace(reply, text=storable(reply.text))
            latency_ms = self._since(began)
            meanwhile = self._cache.get(key)
            if meanwhile is not None and meanwhile.reply is not None:
                # Another agent asked the same and was first: whoever repeats the run gets this reply for both.
                reply = meanwhile.reply
            else:
                self._cache.put(request, Cached(reply, latency_ms=latency_ms))
            return reply, _took(heard, reply, latency_ms), retried

    def _since(self, began: float) -> int:
        return round((self._clock() - began) * 1000)


class _NoReply(Exception):  # noqa: N818  (it carries a result up two frames, and is no error)
    def __init__(self, heard: Heard) -> None:
        super().__init__(heard.failure)
        self.heard = heard


def _took(heard: Heard, reply: Reply, latency_ms: int) -> Heard:
    return replace(
        heard, usage=heard.usage + reply.usage, latency_ms=heard.latency_ms + latency_ms, reply=reply.text
    )


def _understood(reply: Reply, symbols: tuple[str, ...]) -> Decision:
    if reply.ending == "refused":
        words = plain(reply.text, 160)
        raise InvalidReplyError(
            f"the model refuses to answer{f': {words}' if words else ''}", repairable=False
        )
    if reply.ending == "truncated":
        raise InvalidReplyError("the reply was cut off at its longest length; be shorter")
    return parse_decision(reply.text, symbols)


async def _before(deadline: float, asked: object, timeout_s: float) -> Reply:
    """The reply, or a ProviderError at the deadline, however slowly it drips in."""
    try:
        async with asyncio.timeout_at(deadline):
            return await asked  # type: ignore[misc,no-any-return]
    except TimeoutError:
        raise ProviderError(f"no answer within {timeout_s:g} s", retryable=True) from None
