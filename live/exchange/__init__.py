"""The exchange port and its implementations."""
