"""Agents that ask a language model what to do: `llm:FILE` wherever an agent is named. See docs/llm-agents.md."""
