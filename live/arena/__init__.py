"""The live arena: several agents on one exchange account. See docs/arena.md."""
