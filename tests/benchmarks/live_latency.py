"""From a closed candle received to the signed order sent: `python -m tests.benchmarks.live_latency [--steps N]`.

The live loop (features, a network of a policy's size, risk layer with its file, orders, stops, step log) trades
five-minute candles on a paper exchange in another process. A relay between the two notes when the last symbol's closed
candle came from the exchange and when the step's first and last order left the client, so the figures hold everything
that lies between: parsing, features, inference, risk checks, signing, HTTP.

As with a real exchange the process sleeps before each candle (here for a third of a second, enough for processor and
caches to forget it), knows the time at which the candle closes, and gets it some milliseconds later, it does not know
how many. `--back-to-back` asks for each candle as soon as the step is done instead; `--no-rehearsal` leaves out what
the live loop does just before the close.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agents.run import run
from envs.base import Observation
from envs.features import default_features, feature_names
from envs.observation import ObservationSpec
from envs.risk import RiskLimits
from envs.risk_state import FileRiskStore
from envs.settings import EnvConfig
from envs.time_grid import interval_to_ms
from envs.wrappers import RiskControl, StepLog
from live.bridge import LoopThread
from live.env import LiveEnv
from live.exchange.binance import BinanceExchange
from live.rehearsal import deciding
from live.settings import Credentials, paper_venue
from tests.benchmarks._exchange_process import INTERVAL, instruments_of
from tests.benchmarks._report import emit, note

_FIRST = 1000
_PAUSE_S = 0.3
_LATE_S = (0.005, 0.06)
_CONFIG = EnvConfig.parse(
    {
        "window_size": 30,
        "max_leverage": 3.0,
        "action": {"scheme": "target", "rebalance_band": 0.02, "stop_loss_fraction": 0.02},
    }
)


class _Network:
    """Two layers of fixed random weights, as large as a trained actor, plus an action that keeps moving."""

    name = "bench"

    def __init__(self, size: int, n: int) -> None:
        rng = np.random.default_rng(0)
        self._layers = [rng.normal(0, 0.05, shape) for shape in ((size, 256), (256, 256), (256, n))]
        self._layers = [layer.astype(np.float32) for layer in self._layers]
        self._rng = rng
        self._n = n

    def reset(self, spec: ObservationSpec, *, seed: int | None = None) -> None:
        del spec, seed

    def act(self, observation: Observation, info: dict[str, Any]) -> np.ndarray[Any, Any]:
        """A target for every symbol, far enough from the last one to need an order."""
        del info
        return np.clip(0.1 * self._hidden(observation) + self._rng.uniform(-1, 1, self._n), -1, 1)

    def rehearse(self, observation: Observation) -> None:
        """The same network; what is drawn does not change."""
        self._hidden(observation)

    def _hidden(self, observation: Observation) -> np.ndarray[Any, Any]:
        hidden = observation
        for layer in self._layers:
            hidden = np.tanh(hidden @ layer)
        return hidden

    def close(self) -> None:
        pass


class _Market:
    """Closes candles at times that are known, and has them arrive a little later.

    Args:
        play: has the exchange play a candle, without waiting for it.
        pause_s: between the end of a step and the close of its candle.
    """

    def __init__(self, play: Callable[[], None], pause_s: float) -> None:
        self._play = play
        self._pause_s = pause_s
        self._rng = np.random.default_rng(0)
        self._closes_at_s = 0.0

    async def request_candle(self) -> bool:
        self._closes_at_s = time.monotonic() + self._pause_s
        if self._pause_s:
            await asyncio.sleep(self._pause_s + self._rng.uniform(*_LATE_S))
        self._play()
        return True

    def closes_in_s(self, close_ms: int) -> float:
        del close_ms
        return self._closes_at_s - time.monotonic()


@contextmanager
def _process(*arguments: str | int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """One of the processes and its port."""
    command = [sys.executable, "-m", "tests.benchmarks._exchange_process", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.stdin.close()


def _latencies_ms(seen: Sequence[tuple[str, int]]) -> tuple[list[float], list[float]]:
    """Of each step, the time from the last candle to the first order and to the last one."""
    first, last = [], []
    candle_ns = 0
    fresh = False
    for kind, at_ns in seen:
        if kind == "candle":
            candle_ns, fresh = at_ns, True
        elif candle_ns:
            since_ms = (at_ns - candle_ns) / 1e6
            if fresh:
                first.append(since_ms)
                last.append(since_ms)
            last[-1] = since_ms
            fresh = False
    return first, last


def measure(symbols: int, steps: int, *, pause_s: float = _PAUSE_S, rehearse: bool = True) -> None:
    """Print the figures for so many symbols."""
    note(f"{symbols} symbols, {steps} candles of {INTERVAL}")
    rules = instruments_of(symbols)
    with (
        _process("exchange", symbols, _FIRST + steps + 10, _FIRST, 1) as (port, replay),
        _process("relay", port) as (relay_port, relay),
        LoopThread() as bridge,
        tempfile.TemporaryDirectory() as folder,
    ):
        venue = paper_venue(f"http://127.0.0.1:{relay_port}", f"ws://127.0.0.1:{relay_port}")
        exchange = BinanceExchange(venue, Credentials("paper", "paper"), tuple(rules), leverage=5)

        def play() -> None:
            assert replay.stdin is not None
            print(file=replay.stdin, flush=True)

        market = _Market(play, pause_s)
        bridge.call(exchange.connect())
        features = default_features()
        env = LiveEnv(
            exchange,
            bridge,
            interval_ms=interval_to_ms(INTERVAL),
            config=_CONFIG,
            features=features,
            scaler=None,
            instruments=[exchange.loaded[symbol] for symbol in rules],
            agent="bench",
            request_candle=market.request_candle,
            closes_in_s=market.closes_in_s if rehearse else None,
        )
        agent = _Network(env.spec_observation.size, symbols)
        risk = RiskControl(env, RiskLimits(), store=FileRiskStore(Path(folder) / "risk.json"))
        env.rehearse_with(deciding(agent), risk.rehearse)
        stack = StepLog(risk, agent="bench", path=Path(folder) / "steps.csv")
        result = run(stack, agent, max_steps=steps)
        stack.close()
        bridge.call(exchange.close())
        relay.stdin.close()  # type: ignore[union-attr]
        first, last = _latencies_ms(json.loads(relay.stdout.read()))  # type: ignore[union-attr]
    names = feature_names(features, tuple(rules))
    extra: dict[str, Any] = {"symbols": symbols, "steps": result.steps, "orders_in": len(first)}
    extra |= {"features": len(names), "pause_s": pause_s, "rehearsal": rehearse}
    emit("candle_to_order_p50_ms", float(np.percentile(first, 50)), "ms", **extra)
    emit("candle_to_order_p99_ms", float(np.percentile(first, 99)), "ms", **extra)
    emit("candle_to_last_order_p50_ms", float(np.percentile(last, 50)), "ms", **extra)


def main() -> None:
    """One symbol, then twenty."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--symbols", type=int, nargs="+", default=(1, 20))
    parser.add_argument("--back-to-back", action="store_true")
    parser.add_argument("--no-rehearsal", action="store_true")
    options = parser.parse_args()
    for symbols in options.symbols:
        measure(
            symbols,
            options.steps,
            pause_s=0.0 if options.back_to_back else _PAUSE_S,
            rehearse=not (options.no_rehearsal or options.back_to_back),
        )


if __name__ == "__main__":
    main()
