"""`python -m live` is `python live.py`."""

from live.cli import main

if __name__ == "__main__":
    main()
