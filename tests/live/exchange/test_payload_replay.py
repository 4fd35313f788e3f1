"""Every real payload at hand through the parsers. A file, or a payload in one, that nobody reads fails the test."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import payload_checks as check
import pytest

from envs.errors import PerpgymError
from live.exchange import parse
from live.exchange.wire_client import read_reply

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
PAYLOADS = SHARED / "payloads"
HOUR = 3_600_000

pytestmark = pytest.mark.skipif(not PAYLOADS.is_dir(), reason="the shared payloads are not here")

Payload = tuple[str, Any, check.Check]
"""Its name, its body, and what it must become."""


def _words(text: str) -> list[str]:
    return text.split()


_ALGO_PARENTS = "/sapi/v1/algo/"
REST: dict[str, check.Check] = {
    "/fapi/v1/time": check.time,
    "/fapi/v1/exchangeInfo": check.exchange_info,
    "/fapi/v1/klines": check.klines,
    "/fapi/v1/markPriceKlines": check.klines,
    "/fapi/v1/indexPriceKlines": check.klines,
    "/fapi/v1/premiumIndexKlines": check.klines,
    "/fapi/v1/continuousKlines": check.klines,
    "/fapi/v1/premiumIndex": check.mark_price,
    "/fapi/v1/fundingRate": check.funding_rates,
    "/fapi/v1/leverageBracket": check.brackets,
    "/fapi/v1/commissionRate": check.commission,
    "/fapi/v3/account": check.account,
    "/fapi/v2/account": check.account,
    "/fapi/v3/positionRisk": check.positions,
    "/fapi/v2/positionRisk": check.positions,
    "/fapi/v1/accountConfig": check.account_config,
    "/fapi/v1/symbolConfig": check.symbol_config,
    "/fapi/v1/leverage": check.leverage,
    "/fapi/v1/marginType": check.done,
    "/fapi/v1/order": check.orders,
    "/fapi/v1/openOrder": check.orders,
    "/fapi/v1/openOrders": check.orders,
    "/fapi/v1/allOrders": check.orders,
    "/fapi/v1/batchOrders": check.orders,
    "/fapi/v1/forceOrders": check.orders,
    "/fapi/v1/allOpenOrders": check.done,
    "/fapi/v1/algoOpenOrders": check.done,
    "DELETE /fapi/v1/algoOrder": check.done,
    "/fapi/v1/algoOrder": check.triggers,
    "/fapi/v1/openAlgoOrders": check.triggers,
    "/fapi/v1/allAlgoOrders": check.triggers,
    "/fapi/v1/userTrades": check.trades,
    "/fapi/v1/income": check.income,
    "/fapi/v1/countdownCancelAll": check.countdown,
    "/fapi/v1/listenKey": check.listen_key,
}
UNREAD_PATHS = frozenset(
    _words("""/fapi/v3/balance /fapi/v1/feeBurn /fapi/v1/order/asyn /fapi/v1/order/asyn/id /fapi/v1/trade/asyn
    /fapi/v1/trade/asyn/id /fapi/v1/income/asyn /fapi/v1/income/asyn/id /fapi/v1/positionMargin
    /fapi/v1/positionMargin/history /fapi/v1/multiAssetsMargin /fapi/v1/positionSide/dual /fapi/v1/rateLimit/order
    /fapi/v1/adlQuantile /fapi/v1/apiTradingStatus /fapi/v1/aggTrades /fapi/v1/trades /fapi/v1/historicalTrades
    /fapi/v1/assetIndex /futures/data/basis /fapi/v1/ticker/bookTicker /fapi/v2/ticker/price /fapi/v1/ticker/24hr
    /fapi/v1/indexInfo /fapi/v1/fundingInfo /futures/data/globalLongShortAccountRatio /fapi/v1/constituents
    /fapi/v1/insuranceBalance /fapi/v1/openInterest /futures/data/openInterestHist /fapi/v1/depth
    /futures/data/takerlongshortRatio /futures/data/topLongShortAccountRatio /futures/data/topLongShortPositionRatio
    /fapi/v1/convert/acceptQuote /fapi/v1/convert/getQuote /fapi/v1/convert/orderStatus /fapi/v1/orderAmendment""")
)
"""What the connector has no use for."""

OPERATIONS: dict[str, check.Check] = {
    "account_information_v2": check.account,
    "account_information_v3": check.account,
    "futures_account_configuration": check.account_config,
    "get_income_history": check.income,
    "notional_and_leverage_brackets": check.brackets,
    "symbol_configuration": check.symbol_config,
    "user_commission_rate": check.commission,
    "check_server_time": check.time,
    "exchange_information": check.exchange_info,
    "get_funding_rate_history": check.funding_rates,
    "mark_price": check.mark_price,
    **dict.fromkeys(
        (
            "kline_candlestick_data",
            "mark_price_kline_candlestick_data",
            "index_price_kline_candlestick_data",
            "premium_index_kline_data",
            "continuous_contract_kline_candlestick_data",
        ),
        check.klines,
    ),
    "account_trade_list": check.trades,
    **dict.fromkeys(
        _words("""all_orders cancel_order cancel_multiple_orders current_all_open_orders modify_order
        modify_multiple_orders new_order place_multiple_orders query_current_open_order query_order
        test_order users_force_orders"""),
        check.orders,
    ),
    **dict.fromkeys(
        _words("new_algo_order current_all_algo_open_orders query_algo_order query_all_algo_orders"),
        check.triggers,
    ),
    **dict.fromkeys(
        _words("""cancel_algo_order cancel_all_algo_open_orders cancel_all_open_orders change_margin_type
        change_multi_assets_mode change_position_mode toggle_bnb_burn_on_futures_trade
        futures_tradfi_perps_contract"""),
        check.done,
    ),
    "auto_cancel_all_open_orders": check.countdown,
    "change_initial_leverage": check.leverage,
    "position_information_v2": check.positions,
    "position_information_v3": check.positions,
    "keepalive_user_data_stream": check.listen_key,
    "start_user_data_stream": check.listen_key,
    # Over the WebSocket API, in the same forms.
    "account_information": check.account,
    "position_information": check.positions,
}
UNREAD_OPERATIONS = frozenset(
    _words("""futures_account_balance futures_account_balance_v2 futures_account_balance_v3
    futures_trading_quantitative_rules_indicators get_bnb_burn_status get_current_multi_assets_mode
    get_current_position_mode get_download_id_for_futures_order_history get_download_id_for_futures_trade_history
    get_download_id_for_futures_transaction_history get_futures_order_history_download_link_by_id
    get_futures_trade_download_link_by_id get_futures_transaction_history_download_link_by_id query_user_rate_limit
    accept_the_offered_quote list_all_convert_pairs order_status send_quote_request adl_risk asset_index basis
    composite_index_symbol_information compressed_aggregate_trades_list get_funding_rate_info long_short_ratio
    old_trades_lookup open_interest open_interest_statistics order_book quarterly_contract_settlement_price
    query_index_price_constituents query_insurance_fund_balance_snapshot recent_trades_list rpi_order_book
    symbol_order_book_ticker symbol_price_ticker symbol_price_ticker_v2 taker_buy_sell_volume
    ticker24hr_price_change_statistics top_trader_long_short_ratio_accounts top_trader_long_short_ratio_positions
    trading_schedule classic_portfolio_margin_account_information get_order_modify_history
    get_position_margin_change_history modify_isolated_position_margin position_adl_quantile_estimation
    close_user_data_stream""")
)
WS_METHODS: dict[str, check.Check] = {
    "v2/account.status": check.account,
    "v2/account.position": check.positions,
    "order.place": check.orders,
    "order.cancel": check.orders,
    "order.modify": check.orders,
    "order.status": check.orders,
    "algoOrder.place": check.triggers,
    "algoOrder.cancel": check.done,
    **dict.fromkeys(("v2/account.balance", "ticker.book", "ticker.price", "depth"), check.unread),
}
NAUTILUS: dict[str, check.Check] = {
    "account_info_v2": check.account,
    "open_algo_orders": check.triggers,
    "order_response": check.orders,
    "position_risk": check.positions,
    "http_futures_account_orders": check.orders,
    "http_futures_account_positions_hedge": check.positions,
    "http_futures_account_positions_one_way": check.positions,
    "http_futures_account_symbol_config": check.symbol_config,
    "http_futures_account_trades": check.trades,
    "http_futures_market_continuous_klines": check.klines,
    "http_futures_market_klines": check.klines,
    "http_futures_market_mark_price_klines": check.klines,
    "http_futures_market_index_price_klines": check.klines,
    "http_futures_market_blvt_nav_kline": check.klines,
    "http_futures_market_exchange_info": check.exchange_info,
    "http_futures_market_funding_rate": check.funding_rates,
    "http_futures_market_premium_index": check.mark_price,
    "http_futures_wallet_commission_rate_btcusdt": check.commission,
    "http_futures_wallet_commission_rate_btcusdt_quarterly": check.commission,
    "http_futures_wallet_commission_rate_ethusdt": check.commission,
    **dict.fromkeys(
        _words("""balance http_futures_account_position_side_dual http_futures_market_agg_trades
        http_futures_market_asset_index http_futures_market_book_ticker http_futures_market_depth
        http_futures_market_global_long_short_account_ratio http_futures_market_historical_trades
        http_futures_market_index_info http_futures_market_open_interest http_futures_market_open_interest_historical
        http_futures_market_taker_long_short_ratio http_futures_market_ticker_24hr http_futures_market_ticker_price
        http_futures_market_top_long_short_account_ratio http_futures_market_top_long_short_position_ratio
        http_futures_market_trades"""),
        check.unread,
    ),
}


def body_of(path: Path) -> Any:
    """The file as the connector reads a reply: numbers as int and Decimal."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(raw, parse_float=Decimal)


def rest_responses(path: Path) -> Iterator[Payload]:
    for one in body_of(path):
        asked = one["path"]
        known = REST.get(f"{one['method']} {asked}") or REST.get(asked)
        if known is None:
            assert asked in UNREAD_PATHS or asked.startswith(_ALGO_PARENTS), f"nobody reads {asked}"
            known = check.unread
        yield one["name"], one["response"], known


def connector(path: Path) -> Iterator[Payload]:
    for area in body_of(path).values():
        for name, one in area.items():
            body = one["response"]
            if "streams" in path.name:
                yield name, body, check.event
                continue
            if name not in OPERATIONS:
                assert name in UNREAD_OPERATIONS, f"nobody reads {name}"
            if "websocket_api" in path.name:
                assert body["status"] == 200
                body = body.get("result", {})
            yield name, body, OPERATIONS.get(name, check.unread)


def ws_api(path: Path) -> Iterator[Payload]:
    for one in body_of(path):
        sent, received = one["messages"][0]["sent"], one["messages"][-1]["received"]
        yield one["name"], received["result"], WS_METHODS[sent["method"]]


def stream_events(path: Path) -> Iterator[Payload]:
    for one in body_of(path):
        for message in one["messages"]:
            received = message.get("received")
            # Replies to subscriptions, and numbers that mark a place in the example, are no events.
            if isinstance(received, dict) and "data" in received:
                yield one["name"], received, check.event


def nautilus(path: Path) -> Iterator[Payload]:
    for name, body in body_of(path).items():
        stem = Path(name).stem
        if "http" in name:
            yield name, body, NAUTILUS[stem]
        else:
            yield name, body, check.event


def whole(what: check.Check) -> Callable[[Path], Iterator[Payload]]:
    def read(path: Path) -> Iterator[Payload]:
        yield path.name, body_of(path), what

    return read


def foreign(path: Path) -> Iterator[Payload]:
    for name, body in body_of(path).items():
        yield name, body, check.foreign


def archive(path: Path) -> Iterator[Payload]:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] != "open_time"]
    yield path.name, rows, _archive_rows


def _archive_rows(rows: Any) -> None:
    """A day of the exchange's own files, in the form of klines."""
    candles = [parse.candle("BTCUSDT", HOUR, row) for row in rows]
    assert len(candles) == 24
    assert [one.open_time_ms - candles[0].open_time_ms for one in candles] == [HOUR * i for i in range(24)]
    assert [one.close_time_ms for one in candles] == [int(row[6]) for row in rows]
    assert all(one.low <= min(one.open, one.close) <= max(one.open, one.close) <= one.high for one in candles)


FILES: dict[str, tuple[Callable[[Path], Iterator[Payload]], int]] = {
    "binance_spot_archive_klines_BTCUSDT-1h-2024-10-28.csv": (archive, 1),
    "binance_um_archive_klines_BTCUSDT-1h-2024-10-28.csv": (archive, 1),
    "binance_um_connector_rest_api.json": (connector, 93),
    "binance_um_connector_websocket_api.json": (connector, 18),
    "binance_um_connector_websocket_streams.json": (connector, 40),
    "binance_um_events_nautilus.json": (nautilus, 79),
    "binance_um_exchangeInfo_mainnet_2021-09-06.json.gz": (whole(check.exchange_info), 1),
    "binance_um_exchangeInfo_testnet_2025-12-24.json.gz": (whole(check.exchange_info), 1),
    "binance_um_exchangeInfo_testnet_2025-12-24_subset.json": (whole(check.exchange_info), 1),
    "binance_um_leverageBracket_2023-08-01_7symbols.json": (whole(check.brackets), 1),
    "binance_um_leverageBracket_2024-10-24_7symbols.json": (whole(check.brackets), 1),
    "binance_um_leverageBracket_2026-05-07.json.gz": (whole(check.brackets), 1),
    "binance_um_leverageBracket_2026-05-07_7symbols.json": (whole(check.brackets), 1),
    "binance_um_rest_responses.json": (rest_responses, 89),
    "binance_um_stream_events.json": (stream_events, 23),
    "binance_um_ws_api_responses.json": (ws_api, 14),
    "other_bitmex_samples.json.gz": (foreign, 26),
    "other_bybit_samples.json.gz": (foreign, 64),
    "other_hyperliquid_samples.json.gz": (foreign, 13),
    "other_kraken_samples.json.gz": (foreign, 63),
    "other_okx_samples.json.gz": (foreign, 59),
}
"""By file: how its payloads are taken out, and how many there are at least."""


def test_every_file_has_a_parser() -> None:
    assert sorted(path.name for path in PAYLOADS.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_payload_of_the_file_is_read(name: str) -> None:
    take, least = FILES[name]
    failures, count = [], 0
    for one, body, what in take(PAYLOADS / name):
        count += 1
        try:
            what(body)
        except (AssertionError, PerpgymError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            failures.append(f"{one}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    assert count >= least


def test_a_reply_is_read_with_its_numbers_exact() -> None:
    reply = read_reply(
        200, {}, (PAYLOADS / "binance_um_leverageBracket_2026-05-07_7symbols.json").read_text()
    )
    rates = {type(row["maintMarginRatio"]) for entry in reply for row in entry["brackets"]}
    assert rates <= {Decimal, int} and Decimal in rates


@pytest.mark.parametrize(("market", "equal"), [("um", 22), ("spot", 24)])
def test_the_archives_candles_are_those_of_the_history(market: str, equal: int) -> None:
    """24 of 24 hours of spot; of the perpetual all but the two hours of a halt, which were corrected later."""
    span = {"um": "2019-09-08_2025-08-31", "spot": "2018-01-01_2025-08-31"}[market]
    history = SHARED / f"binance_{market}_BTCUSDT_1h_{span}.parquet"
    with (PAYLOADS / f"binance_{market}_archive_klines_BTCUSDT-1h-2024-10-28.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] != "open_time"]
    frame = pd.read_parquet(history)
    times = pd.to_datetime([int(row[0]) for row in rows], unit="ms", utc=True)
    column = next(name for name in ("open_time", "timestamp", "date") if name in frame.columns)
    known = frame.set_index(pd.to_datetime(frame[column], unit="ms", utc=True)).loc[times]
    candles = [parse.candle("BTCUSDT", HOUR, row) for row in rows]
    same = [
        (one.open, one.high, one.low, one.close, one.volume)
        == (row.open, row.high, row.low, row.close, row.volume)
        for one, row in zip(candles, known.itertuples(), strict=True)
    ]
    assert sum(same) == equal
