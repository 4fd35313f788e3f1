"""The embedded Binance USD-M exchange."""
