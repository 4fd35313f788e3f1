"""TA-Lib without the package around it: the same functions, and no pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
import numpy as np
from envs.indicators import Rsi
from envs.synthetic import synthetic_candles
candles = synthetic_candles("BTCUSDT", n=100)
(found,) = Rsi(period=14).compute(candles, None)
assert not {"pandas", "talib"} & set(sys.modules)

import pandas as pd
import talib
assert np.array_equal(found, talib.RSI(candles.close, 14) / 100, equal_nan=True)
series = talib.RSI(pd.Series(candles.close), 14)
assert isinstance(series, pd.Series) and series.iloc[-1] == found[-1] * 100
assert sys.modules["talib._ta_lib"] is sys.modules["envs.ta_functions"].ta()
"""

AFTERWARDS = """
import talib
from envs.ta_functions import ta
assert ta() is talib
"""


def test_the_functions_are_those_of_the_package_and_load_no_pandas() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, check=True)


def test_a_package_that_is_loaded_is_taken() -> None:
    subprocess.run([sys.executable, "-c", AFTERWARDS], cwd=ROOT, check=True)
