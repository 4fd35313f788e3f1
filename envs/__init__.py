"""The world: markets, instruments, the account and the trading environment. No network, no clock."""

import gymnasium as gym

gym.register(
    id="perpgym/Futures-v0",
    entry_point="envs.futures_env:FuturesEnv",
    vector_entry_point="envs.vector_env:FuturesVectorEnv",
    disable_env_checker=True,
)
