"""From a scene to words, by templates in files.

A template is a folder with `system.md`, `user.md` and `repair.md`; `$name` stands for what is put in. The system prompt
holds all that stays the same in a run, so that providers' prompt caches work; the scene is in the user's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from string import Template
from typing import Any

from agents.llm.config import PromptConfig
from agents.llm.scene import Past, PositionScene, Scene, SymbolScene
from agents.llm.text import quotable
from envs.candles import interval_name
from envs.errors import ConfigError

_HERE = Path(__file__).parent
_TEMPLATES = _HERE / "templates"
_PERSONALITIES = _HERE / "personalities"
_DIGITS = 8
_BLIND = (
    "\n- Names, price levels and dates are not the real ones. Quantities and prices fit each other; amounts of "
    "USDT are real."
)
_STRATEGY_CHARS = 40


@dataclass(frozen=True)
class PromptBook:
    """The words around the numbers.

    Attributes:
        name: of the template, for the records.
        personality: the character, as text.
        text_chars: how much of an earlier reasoning is quoted.
    """

    name: str
    personality: str
    text_chars: int
    _system: Template
    _user: Template
    _repair: Template

    @classmethod
    def open(cls, config: PromptConfig) -> PromptBook:
        """Read the template and the personality.

        Raises:
            ConfigError: a file is missing or not text.
        """
        folder = _TEMPLATES / config.template
        if not folder.is_dir():
            folder = Path(config.template).expanduser()
        if not folder.is_dir():
            shipped = ", ".join(sorted(one.name for one in _TEMPLATES.iterdir() if one.is_dir()))
            raise ConfigError(
                f"prompt.template {config.template!r} is neither shipped ({shipped}) nor a folder; a template is a "
                "folder with system.md, user.md and repair.md"
            )
        character = _PERSONALITIES / f"{config.personality}.md"
        if not character.is_file():
            character = Path(config.personality).expanduser()
        if not character.is_file():
            shipped = ", ".join(sorted(one.stem for one in _PERSONALITIES.glob("*.md")))
            raise ConfigError(
                f"prompt.personality {config.personality!r} is neither shipped ({shipped}) nor a text file"
            )
        parts = [Template(_text(folder / f"{name}.md")) for name in ("system", "user", "repair")]
        return cls(config.template, _text(character).strip(), config.text_chars, *parts)

    def system(self, scene: Scene, *, limits: Sequence[str], schema: dict[str, Any], blind: bool) -> str:
        """The part that stays the same: `scene` gives the instruments' rules."""
        return self._fill(
            self._system,
            interval=interval_name(scene.interval_ms),
            personality=self.personality,
            instruments="\n".join(_rules(one) for one in scene.symbols),
            limits="\n".join(f"- {line}" for line in limits),
            schema=json.dumps(schema),
            blind=_BLIND if blind else "",
        )

    def user(self, scene: Scene) -> str:
        """The scene."""
        return self._fill(
            self._user,
            time=_time(scene.close_ms),
            interval=interval_name(scene.interval_ms),
            account=_account(scene),
            positions="\n".join(_position(one) for one in scene.positions) or "None.",
            market="\n\n".join(_market(one) for one in scene.symbols),
            decisions="\n".join(self._past(one) for one in scene.past) or "None yet.",
        )

    def repair(self, problem: str) -> str:
        """What is said to a reply that is no decision."""
        return self._fill(self._repair, problem=quotable(problem, 400))

    def _past(self, one: Past) -> str:
        """One line of JSON: whatever a model wrote stays a string in it."""
        row = {
            "time": _time(one.close_ms),
            "action": one.action,
            "symbol": one.symbol,
            "side": one.side,
            "quantity": _plain(one.quantity),
            "stop_loss": _plain(one.stop_price),
            "take_profit": _plain(one.take_profit_price),
            "outcome": one.outcome,
            "fills": [
                f"{what} {_number(quantity)} at {_number(price)}" for what, quantity, price in one.fills
            ],
            "strategy": quotable(one.strategy, min(_STRATEGY_CHARS, self.text_chars)),
            "reasoning": quotable(one.reasoning, self.text_chars),
            "complaint": quotable(one.complaint, self.text_chars),
        }
        return json.dumps({key: value for key, value in row.items() if value}, ensure_ascii=False)

    def _fill(self, template: Template, **values: str) -> str:
        try:
            return template.substitute(values)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"prompt.template {self.name}: placeholder {error} is unknown; there are {', '.join(values)}, and a "
                "dollar sign is written $$"
            ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt's file {path} cannot be read ({error})") from error


def _time(close_ms: int) -> str:
    return datetime.fromtimestamp((close_ms + 1) / 1000, UTC).strftime("%a %Y-%m-%d %H:%M UTC")


def _number(value: Decimal, digits: int = _DIGITS) -> str:
    """At most `digits` significant digits, never in exponents."""
    if value == 0:
        return "0"
    places = digits - 1 - value.adjusted()
    rounded = round(value, places) if places < 28 else value
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(value: Decimal | None) -> str | None:
    return None if value is None else _number(value)


def _rules(one: SymbolScene) -> str:
    return (
        f"- {one.symbol}: price step {_number(one.tick_size, 12)}, quantity step {_number(one.step_size, 12)}, "
        f"smallest order {_number(one.min_notional_usdt)} USDT"
    )


def _account(scene: Scene) -> str:
    gross = sum((one.quantity * one.price for one in scene.positions), Decimal(0))
    return (
        f"Equity {scene.equity_usdt:.2f} USDT, wallet {scene.wallet_usdt:.2f}, free for margin "
        f"{scene.available_usdt:.2f}, positions worth {gross:.2f}, drawdown from the peak "
        f"{scene.drawdown_fraction:.2%}."
    )


def _position(one: PositionScene) -> str:
    notional = one.quantity * one.entry_price
    share = one.pnl_usdt / notional if notional else Decimal(0)
    return (
        f"- {one.symbol} {one.side} {_number(one.quantity)}, entry {_number(one.entry_price)}, price "
        f"{_number(one.price)}, PnL {one.pnl_usdt:+.2f} USDT ({share:+.2%}), held {one.candles_held} candles, stop "
        f"{_trigger(one.stop_price, one.price)}, take-profit {_trigger(one.take_profit_price, one.price)}, liquidation "
        f"{_trigger(one.liquidation_price, one.price)}"
    )


def _trigger(price: Decimal | None, now: Decimal) -> str:
    return "none" if price is None else f"{_number(price)} ({price / now - 1:+.2%})"


def _market(one: SymbolScene) -> str:
    first, last = one.candles[0], one.candles[-1]
    traded = sum((row.quote_volume for row in one.candles), Decimal(0))
    lines = [
        f"## {one.symbol}" + (" (its candle is late: it cannot be traded now)" if one.stale else ""),
        f"Price {_number(one.price)}, {last.close / first.open - 1:+.2%} over the {len(one.candles)} candles shown, "
        f"traded value {_number(traded, 4)} USDT.",
        "Indicators: " + ", ".join(f"{name} {value:.5g}" for name, value in one.indicators),
    ]
    for row in one.candles:
        clock = datetime.fromtimestamp((row.close_ms + 1) / 1000, UTC).strftime("%H:%M")
        prices = " ".join(_number(price) for price in (row.open, row.high, row.low, row.close))
        lines.append(f"{clock} {prices} {_number(row.quote_volume, 4)}")
    return "\n".join(lines)
