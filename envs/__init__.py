"""The world: markets, instruments, the account and the trading environment. No network, no clock."""
