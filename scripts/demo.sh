#!/usr/bin/env bash
# The whole way on a synthetic market: train a small policy, backtest it, run it on the paper exchange.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"

say() { printf '\n\033[1m== %s\033[0m\n' "$1"; }

say "1/3  train a small SAC policy (a synthetic market; no data is needed)"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
"$python" -m agents.train --config configs/train/demo.yaml | tee "$log"
train_id="$(tail -n 1 "$log")"

say "2/3  backtest it on the candles that it has not seen"
"$python" -m agents.backtest --agent "$train_id"

say "3/3  run it on the paper exchange, over Binance's wire protocol"
"$python" live.py --train-id "$train_id" --paper --speed max --steps 240 --quiet

run="training_runs/$train_id"
say "done"
echo "training run   $run"
echo "report         $(ls -t "$run"/backtests/*/report.html | head -n 1)   (open it in a browser)"
echo "live steps     $(ls -t "$run"/production/steps_*.csv | head -n 1)"
