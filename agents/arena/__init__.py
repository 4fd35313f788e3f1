"""The arena: several agents side by side on the same candles. See docs/arena.md."""
