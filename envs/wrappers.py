"""RiskControl and StepLog: gym wrappers around any environment that trades, simulated or live.

The stack is `StepLog(RiskControl(env))` everywhere. The two know nothing of each other: RiskControl changes what is
executed and reports emergencies in the execution; StepLog writes down what it sees.
"""

from envs.risk_control import RiskControl
from envs.step_writer import StepLog

__all__ = ["RiskControl", "StepLog"]
