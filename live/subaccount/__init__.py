"""Sub-accounts: several agents on virtual wallets over one exchange account (`docs/sub-accounts.md`)."""

from live.subaccount.settings import AccountLimits, AgentAccount, SharedAccountSettings
from live.subaccount.shared import SharedAccount
from live.subaccount.sub import SubAccount

__all__ = ["AccountLimits", "AgentAccount", "SharedAccount", "SharedAccountSettings", "SubAccount"]
