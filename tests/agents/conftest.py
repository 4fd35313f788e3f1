"""The backtest's command, in this process."""

from backtest_command import command

__all__ = ["command"]
