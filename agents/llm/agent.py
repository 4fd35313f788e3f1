"""The agent: at every close it looks, asks, checks, and hands over numbers.

Whatever goes wrong on the way is HOLD, with a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.llm.asking import Asking, Heard
from agents.llm.blind import Blindfold
from agents.llm.budget import Budget, PriceTable
from agents.llm.cache import ReplayCache
from agents.llm.config import LlmConfig
from agents.llm.decision import Decision, decision_schema
from agents.llm.errors import ProviderError
from agents.llm.memory import Memory
from agents.llm.prompt import PromptBook
from agents.llm.records import (
    DecisionLog,
    DecisionRecord,
    DecisionSink,
    Ruling,
    Tally,
    Verdict,
    keeps_prompt,
    rule,
    shortest,
)
from agents.llm.request import Message, Provider, Request, Usage
from agents.llm.rules import broken_rule, limit_lines
from agents.llm.scene import Scene, look
from agents.llm.spending import SPENDING_NAME, SpendingLog
from envs.account import Execution, OrderResult, Plan
from envs.base import Action, Observation
from envs.decisions import Decided, decision_action
from envs.errors import ConfigError, ObservationMismatchError
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from envs.settings import EnvConfig
from envs.view import VIEW, MarketView

_REPLY_CHARS = 8000
LOG_NAME = "llm_decisions.log"


@dataclass(frozen=True, slots=True)
class _Pending:
    """A decision whose order is on its way."""

    record: DecisionRecord
    heard: Heard
    decision: Decision
    step_size: Decimal


class LlmAgent:
    """Asks a language model once per closed candle. See docs/llm-agents.md.

    Args:
        config: its settings.
        env, limits: what it is told about its limits; they are enforced elsewhere.
        make_provider: called at the first reset, unless offline.
        sinks: told every decision, beside the log of `config.records`.
        clock: seconds, monotonic: latency is measured by it, and nothing is decided by it.

    Raises:
        ConfigError: a template, a personality or a price is missing.
    """

    def __init__(
        self,
        config: LlmConfig,
        *,
        env: EnvConfig,
        limits: RiskLimits,
        make_provider: Callable[[], Provider],
        clock: Callable[[], float],
        sinks: Sequence[DecisionSink] = (),
    ) -> None:
        self.name = config.name
        self.config = config
        self._env = env
        self._limits = limits
        self._make_provider = make_provider
        self._clock = clock
        self._book = PromptBook.open(config.prompt)
        model = config.provider.model
        prices = PriceTable.of(config.prices)
        self._budget = Budget(config.budget, prices.price_of(model), model, prices.models)
        self._cache = ReplayCache(None if config.cache is None else Path(config.cache).expanduser())
        if config.offline and self._cache.folder is None:
            raise ConfigError("offline needs a replay cache: set cache to a folder")
        self._log = None if config.records.log is None else DecisionLog(Path(config.records.log).expanduser())
        self._sinks = tuple(sinks)
        self._provider: Provider | None = None
        self._runner: asyncio.Runner | None = None
        self._doubt = ""
        self._spending: SpendingLog | None = None
        self._resuming = False
        self._spec: ObservationSpec | None = None
        self._start_over()

    # --- the agent's contract ----------------------------------------------------------------------------

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        """Begin an episode. The first time, make sure that the model can be asked.

        Raises:
            ConfigError: the SDK is not installed, or the provider has no such model.
            CredentialsError: the key is missing or refused.
        """
        if spec.symbols != tuple(dict.fromkeys(spec.symbols)):
            raise ObservationMismatchError("a symbol is there twice", expected="", actual=spec.hash)
        self._spec = spec
        self._start_over()
        if self._provider is None and not self.config.offline:
            self._provider = self._make_provider()
            if self.config.provider.check_model:
                self._check()

    def _check(self) -> None:
        assert self._provider is not None
        try:
            self._run(self._provider.check())
        except ProviderError as error:
            # It may be back at the next candle; a model that is not there would never be.
            self._doubt = (
                f"{self.name}: the provider could not be asked about its model at the start: {error}"
            )
        except BaseException:
            self.close()
            raise

    def _start_over(self) -> None:
        self._memory = Memory(self.config.prompt.decisions)
        self._blindfold: Blindfold | None = None
        self._system: str | None = None
        self._pending: _Pending | None = None
        self._tally = Tally()
        self._budget.reset()

    def act(self, observation: Observation, info: dict[str, Any]) -> Action:
        """The decision for this close, float64 [n, 5] (see `envs.decisions`); zeros hold.

        Raises:
            CacheMissError: offline, and this was never asked.
        """
        view: MarketView = info[VIEW]
        self._settle()
        self._memory.happened(info.get("events", ()))
        hold = decision_action(view.symbols, {})
        close_ms = view.account().time_ms
        base = DecisionRecord(
            agent=self.name,
            model=self.config.provider.model,
            template=self._book.name,
            close_ms=close_ms,
            verdict=Verdict.ACCEPTED,
            blind=self.config.blind.enabled,
        )
        if self._resuming:
            self._count_earlier(close_ms)
        over = self._budget.over(close_ms)
        if over:
            self._record(base, Ruling(Verdict.OVER_BUDGET, over.split(":")[0], over), None)
            return hold
        scene, shown, request = self._question(view, observation)
        self._budget.begin(close_ms)
        heard = self._ask(request, tuple(one.symbol for one in shown.symbols), close_ms)
        self._budget.spend(close_ms, heard.usage)
        record = replace(
            base,
            reply=heard.reply[:_REPLY_CHARS],
            request_key=heard.request.key,
            prompt_hash=heard.request.prompt_hash,
            calls=heard.calls,
            replayed=heard.replayed,
            usage=heard.usage,
            usd=self._budget.cost_usd(heard.usage),
            latency_ms=heard.latency_ms,
            repaired=heard.repaired,
        )
        if heard.decision is None:
            self._no_decision(record, heard)
            return hold
        decision = heard.decision if self._blindfold is None else self._blindfold.uncover(heard.decision)
        record = replace(record, decision=decision.model_dump(mode="json"))
        broken = broken_rule(decision, scene, self._env, self.config.rules)
        if broken is not None:
            self._record(record, Ruling(Verdict.REJECTED, broken.check, str(broken)), heard, decision)
            return hold
        if decision.action == "HOLD":
            self._record(record, Ruling(Verdict.ACCEPTED), heard, decision)
            return hold
        assert decision.symbol is not None
        self._pending = _Pending(record, heard, decision, view.instruments[decision.symbol].step_size)
        decided = Decided(
            decision.signed_quantity,
            decision.leverage or 0.0,
            decision.stop_loss,
            decision.take_profit,
        )
        return decision_action(view.symbols, {decision.symbol: decided})

    def on_execution(self, plan: Plan, execution: Execution) -> None:
        """Write down what became of the decision."""
        pending, self._pending = self._pending, None
        if pending is not None:
            symbol = pending.decision.symbol
            assert symbol is not None
            target = pending.decision.signed_quantity
            ruling, result = rule(plan, execution, symbol, target, pending.step_size)
            self._record(pending.record, ruling, pending.heard, pending.decision, result)
        self._memory.happened(execution.events)

    def close(self) -> None:
        """Close connections and the log; another reset opens them again."""
        self._settle()
        provider, self._provider = self._provider, None
        if provider is not None:
            self._run(provider.close())
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        for sink in self._all_sinks():
            sink.close()
        if self._spending is not None:
            self._spending.close()

    # --- for those who run it ----------------------------------------------------------------------------

    def write_to(self, folder: Path) -> None:
        """Keep the decision log in this folder, unless none is kept."""
        if self._log is not None:
            self._log.close()
            self._log = DecisionLog(folder / LOG_NAME)

    def tell(self, sink: DecisionSink) -> None:
        """Have one more sink told every decision from now on."""
        self._sinks = (*self._sinks, sink)

    def resume(self, folder: Path) -> None:
        """Count what earlier runs spent of the budgets, and note in this folder what is spent from now on."""
        self._resuming = True
        self._spending = SpendingLog(folder / SPENDING_NAME, self.name)

    def _count_earlier(self, close_ms: int) -> None:
        assert self._spending is not None
        self._resuming = False
        # A candle that is decided on again: its replies count when they come from the cache.
        until_ms = close_ms if self._cache.folder is None else close_ms - 1
        for then_ms, usage in self._spending.earlier(None if self._log is None else self._log.path):
            if then_ms <= until_ms:
                self._budget.begin(then_ms)
                self._budget.spend(then_ms, usage)

    def _all_sinks(self) -> tuple[DecisionSink, ...]:
        return (*([self._log] if self._log is not None else []), *self._sinks)

    @property
    def tally(self) -> Tally:
        """What was done since the reset."""
        return self._tally

    def notices(self) -> Sequence[str]:
        """What a report should say."""
        tally, config = self._tally, self.config
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(tally.verdicts.items()))
        cost = "unknown cost" if self._budget.price is None else f"{tally.usd:.4f} USD"
        blind = f"on (seed {config.blind.seed})" if config.blind.enabled else "off"
        lines = [
            f"{self.name}: {config.provider.model}, {config.prompt.personality}, prompt {self._book.name}, blind mode "
            f"{blind}",
            f"{self.name}: {sum(tally.verdicts.values())} decisions ({verdicts or 'none'}), {tally.calls} calls, "
            f"{tally.replayed} replayed, {tally.usage.total:,} tokens, {cost}",
        ]
        return [*lines, *([self._doubt] if self._doubt else [])]

    def preview(self, spec: ObservationSpec, observation: Observation, view: MarketView) -> Request:
        """The first question of an episode; nobody is asked."""
        self._spec = spec
        self._start_over()
        _, _, request = self._question(view, observation)
        self._start_over()
        return request

    # --- asking ------------------------------------------------------------------------------------------

    def _question(self, view: MarketView, observation: Observation) -> tuple[Scene, Scene, Request]:
        """The scene, what is shown of it, and the question."""
        assert self._spec is not None
        config, provider = self.config, self.config.provider
        scene = look(view, self._spec, observation, candles=config.prompt.candles, past=self._memory.past)
        shown = scene
        if config.blind.enabled:
            if self._blindfold is None:
                self._blindfold = Blindfold(config.blind.seed, scene)
            shown = self._blindfold.cover(scene)
        schema = decision_schema([one.symbol for one in shown.symbols])
        if self._system is None:
            names = {one.symbol: one.symbol for one in scene.symbols}
            if self._blindfold is not None:
                names = {symbol: one.alias for symbol, one in self._blindfold.disguises.items()}
            lines = limit_lines(self._env, self._limits, config.rules, config.budget, names)
            self._system = self._book.system(shown, limits=lines, schema=schema, blind=config.blind.enabled)
        request = Request(
            kind=provider.kind,
            model=provider.model,
            system=self._system,
            messages=(Message("user", self._book.user(shown)),),
            schema=schema,
            temperature=provider.temperature,
            max_output_tokens=provider.max_output_tokens,
            reply=provider.reply,
            extra_body=provider.extra_body,
        )
        return scene, shown, request

    def _ask(self, request: Request, symbols: tuple[str, ...], close_ms: int) -> Heard:
        def spent(usage: Usage) -> None:
            if self._spending is not None:
                self._spending.note(close_ms, usage)

        provider = self.config.provider
        asking = Asking(
            None if self.config.offline else self._provider,
            self._cache,
            self._book,
            timeout_s=provider.timeout_s,
            retry_delay_s=provider.retry_delay_s,
            clock=self._clock,
            spent=spent,
        )
        heard: Heard = self._run(asking.decide(request, symbols))
        return heard

    def _run(self, coroutine: Any) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(coroutine)

    # --- remembering -------------------------------------------------------------------------------------

    def _no_decision(self, record: DecisionRecord, heard: Heard) -> None:
        if heard.failure:
            self._record(record, Ruling(Verdict.FAILED, "provider", heard.failure), heard)
            return
        self._record(record, Ruling(Verdict.INVALID, "reply", heard.problem), heard)
        self._memory.not_understood(record.close_ms, heard.problem)

    def _record(
        self,
        record: DecisionRecord,
        ruling: Ruling,
        heard: Heard | None,
        decision: Decision | None = None,
        result: OrderResult | None = None,
    ) -> None:
        records = self.config.records
        record = record.ruled(ruling)
        if heard is not None and keeps_prompt(
            ruling, record.request_key, records.rejected_prompts, records.seed
        ):
            asked = [message.text for message in heard.request.messages]
            record = replace(
                record, prompt={"system": heard.request.system, "messages": "\n\n---\n\n".join(asked)}
            )
        fills = () if result is None else result.fills
        record = replace(
            record,
            fills=tuple((f.symbol, f.side.value, shortest(f.quantity), shortest(f.price)) for f in fills),
        )
        for sink in self._all_sinks():
            sink.record(record)
        self._tally = self._tally.counting(record)
        if decision is not None:
            self._memory.decided(record.close_ms, decision, ruling, fills)

    def _settle(self) -> None:
        """A decision whose outcome nobody told of is written down as such."""
        pending, self._pending = self._pending, None
        if pending is not None:
            unknown = Ruling(Verdict.FAILED, "outcome", "nothing was said of what became of it")
            self._record(pending.record, unknown, pending.heard, pending.decision)
