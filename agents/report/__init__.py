"""The backtest's report: one HTML file that needs nothing but a browser."""

from agents.report.html import write_report

__all__ = ["write_report"]
