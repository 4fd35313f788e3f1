"""A live run whose account is the ledger's: `live.py --db`. Imported only then."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from agents.base import KeepsRecords
from envs.account import EmergencyReport, Execution
from envs.risk_state import RiskState
from envs.step_log import StepRecord
from live.bridge import LoopThread
from live.exchange.base import Exchange
from live.ledger import Ledger
from live.store.journal import Emergency, Equity, Journal
from live.subaccount import SharedAccount, SharedAccountSettings, SubAccount
from live.sync import TradeSync


class RunLedger:
    """An agent that has an exchange account for itself, with everything that happens there in a database.

    Args:
        url: of the database; see `live.store.database.parse_url`.
        account: the exchange account's name in the database.
        agent: its name.
        symbols: that it trades.
        exchange: connected; closed by the caller.
        bridge: the loop that the exchange lives in.
    """

    def __init__(
        self,
        url: str,
        account: str,
        agent: str,
        symbols: tuple[str, ...],
        exchange: Exchange,
        bridge: LoopThread,
    ) -> None:
        self._account = account
        self._agent = agent
        self._bridge = bridge
        settings = SharedAccountSettings.parse(
            {"agents": {agent: {"capital_usdt": None}}, "symbols": symbols}, where="--db"
        )
        self._ledger = Ledger.open(url)
        self._journal = Journal(self._ledger.store)
        sync = TradeSync(exchange, self._ledger, symbols=symbols, account=account)
        self._shared = SharedAccount(exchange, self._ledger, sync, settings)
        self._emergency: EmergencyReport | None = None

    def __enter__(self) -> Self:
        try:
            self._bridge.call(self._shared.start())
        except BaseException:
            self._ledger.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._bridge.call(self._shared.close())
        finally:
            self._ledger.close()

    @property
    def port(self) -> SubAccount:
        """The agent's account, behind the exchange port."""
        return self._shared.agent(self._agent)

    @property
    def name(self) -> str:
        """The database, for people."""
        return self._ledger.store.name

    def keep_decisions(self, agent: KeepsRecords) -> None:
        """Have a language model's decisions written down here too."""
        # Imported here: rules and policies do without.
        from agents.llm.agent import LlmAgent
        from live.decision_sink import StoreSink

        if isinstance(agent, LlmAgent):
            agent.tell(StoreSink(self._journal.decide, self._account, agent.config.provider.kind))

    def step(self, execution: Execution, row: StepRecord, state: RiskState) -> None:
        """Write down the account after a step's orders, as its row in the step log has it."""
        self._journal.equity([equity_row(self._account, self._agent, execution, row, state)])
        if execution.emergency is not None:
            self.emergency(execution.emergency)

    def emergency(self, report: EmergencyReport) -> None:
        """Write down a run of the emergency protocol, once."""
        if report is self._emergency:
            return
        self._emergency = report
        self._journal.emergency(emergency_row(self._account, self._agent, report))


def equity_row(account: str, agent: str, execution: Execution, row: StepRecord, state: RiskState) -> Equity:
    """An account after a step's orders, as its row in the step log has it."""
    after = execution.account
    return Equity(
        exchange=account,
        agent=agent,
        time_ms=row.timestamp,
        wallet_usdt=row.balance,
        unrealized_usdt=row.equity - row.balance,
        equity_usdt=row.equity,
        peak_usdt=state.peak_equity_usdt,
        drawdown_fraction=row.drawdown,
        initial_margin_usdt=after.initial_margin_usdt,
        maintenance_margin_usdt=after.maintenance_margin_usdt,
    )


def emergency_row(account: str, agent: str, report: EmergencyReport) -> Emergency:
    """A run of the emergency protocol."""
    return Emergency(
        exchange=account,
        agent=agent,
        time_ms=report.time_ms,
        reason=report.reason,
        drawdown_fraction=report.drawdown_fraction,
        peak_usdt=report.peak_equity_usdt,
        equity_before_usdt=report.equity_usdt,
        equity_after_usdt=report.account.equity_usdt,
        tries=report.tries,
        succeeded=report.succeeded,
        limit_fraction=report.limit_fraction,
        failures=report.failures,
    )
