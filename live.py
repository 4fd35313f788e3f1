"""Run an agent on the paper exchange, the testnet or with real money: `python live.py --help`."""

from live.cli import main

if __name__ == "__main__":
    main()
