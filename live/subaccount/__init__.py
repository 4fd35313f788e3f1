"""Sub-accounts: several agents on virtual wallets over one exchange account (`docs/sub-accounts.md`)."""

from live.subaccount.ports import AgentPorts, sub_account_credentials
from live.subaccount.settings import AccountLimits, AgentAccount, SharedAccountSettings
from live.subaccount.shared import SharedAccount
from live.subaccount.sub import SubAccount

__all__ = [
    "AccountLimits",
    "AgentAccount",
    "AgentPorts",
    "SharedAccount",
    "SharedAccountSettings",
    "SubAccount",
    "sub_account_credentials",
]
