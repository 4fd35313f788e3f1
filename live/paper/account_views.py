"""JSON shapes of balances, accounts and positions in REST replies. Money, prices, quantities are strings."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from envs.instruments import Instrument
from live.paper.account import Account
from live.paper.margin import AccountMargin, PositionMargin
from live.paper.money import amount_text, plain, quantity_text
from live.paper.orders import LONG, SHORT, MarginChange

Json = dict[str, Any]


def balance(account: Account, margin: AccountMargin) -> Json:
    """One asset of v2 and v3 balance."""
    return {
        "accountAlias": account.alias,
        "asset": "USDT",
        "balance": amount_text(margin.wallet),
        "crossWalletBalance": amount_text(margin.cross_wallet),
        "crossUnPnl": amount_text(margin.cross_unrealized),
        "availableBalance": amount_text(margin.available),
        "maxWithdrawAmount": amount_text(margin.withdrawable),
        "marginAvailable": True,
        "updateTime": account.update_ms,
    }


def account_totals(account: Account, margin: AccountMargin) -> Json:
    """Totals and the USDT asset of v3 account."""
    shared = {
        "initialMargin": amount_text(margin.initial),
        "maintMargin": amount_text(margin.maintenance),
        "walletBalance": amount_text(margin.wallet),
        "unrealizedProfit": amount_text(margin.unrealized),
        "marginBalance": amount_text(margin.equity),
        "positionInitialMargin": amount_text(margin.position_initial),
        "openOrderInitialMargin": amount_text(margin.open_order_initial),
        "crossWalletBalance": amount_text(margin.cross_wallet),
        "crossUnPnl": amount_text(margin.cross_unrealized),
    }
    free = {
        "availableBalance": amount_text(margin.available),
        "maxWithdrawAmount": amount_text(margin.withdrawable),
    }
    return {
        **{f"total{name[0].upper()}{name[1:]}": text for name, text in shared.items()},
        **free,
        "assets": [
            {
                "asset": "USDT",
                **shared,
                **free,
                "updateTime": account.update_ms,
            }
        ],
    }


def account_totals_v2(account: Account, margin: AccountMargin) -> Json:
    """The same for v2 account, which tells of each asset whether it serves as margin."""
    view = account_totals(account, margin)
    return {**view, "assets": [{**asset, "marginAvailable": True} for asset in view["assets"]]}


def account_position_v3(row: PositionMargin, instrument: Instrument) -> Json:
    """One position of v3 account."""
    position = row.position
    return {
        "symbol": position.symbol,
        "positionSide": position.side,
        "positionAmt": quantity_text(position.quantity, instrument.quantity_precision),
        "unrealizedProfit": amount_text(row.unrealized),
        "isolatedMargin": _isolated(row.isolated_margin),
        "notional": amount_text(row.notional),
        "isolatedWallet": _isolated(position.isolated_wallet_usdt),
        "initialMargin": amount_text(row.position_initial + row.open_order_initial),
        "maintMargin": amount_text(row.maintenance),
        "updateTime": position.update_ms,
    }


def account_position_v2(row: PositionMargin, instrument: Instrument) -> Json:
    """One position of v2 account."""
    return {
        **account_position_v3(row, instrument),
        "positionInitialMargin": amount_text(row.position_initial),
        "openOrderInitialMargin": amount_text(row.open_order_initial),
        "leverage": str(row.leverage),
        "isolated": row.isolated,
        "entryPrice": plain(row.position.entry_price),
        "breakEvenPrice": plain(row.position.break_even_price),
        "maxNotional": plain(instrument.max_notional_usdt(row.leverage)),
        "bidNotional": plain(row.bid_notional),
        "askNotional": plain(row.ask_notional),
    }


def position_risk(row: PositionMargin, instrument: Instrument, liquidation_price: Decimal) -> Json:
    """What v2 and v3 positionRisk have in common."""
    position = row.position
    return {
        "symbol": position.symbol,
        "positionSide": position.side,
        "positionAmt": quantity_text(position.quantity, instrument.quantity_precision),
        "entryPrice": plain(position.entry_price),
        "breakEvenPrice": plain(position.break_even_price),
        "markPrice": amount_text(row.mark_price),
        "unRealizedProfit": amount_text(row.unrealized),
        "liquidationPrice": plain(liquidation_price),
        "isolatedMargin": _isolated(row.isolated_margin),
        "notional": amount_text(row.notional),
        "isolatedWallet": _isolated(position.isolated_wallet_usdt),
        "updateTime": position.update_ms,
    }


def position_risk_v3(row: PositionMargin, instrument: Instrument, liquidation_price: Decimal) -> Json:
    """One position of v3 positionRisk: no leverage, no margin type."""
    return {
        **position_risk(row, instrument, liquidation_price),
        "marginAsset": "USDT",
        "initialMargin": amount_text(row.position_initial + row.open_order_initial),
        "maintMargin": amount_text(row.maintenance),
        "positionInitialMargin": amount_text(row.position_initial),
        "openOrderInitialMargin": amount_text(row.open_order_initial),
        "adl": adl_quantile(row),
        "bidNotional": plain(row.bid_notional),
        "askNotional": plain(row.ask_notional),
    }


def position_risk_v2(row: PositionMargin, instrument: Instrument, liquidation_price: Decimal) -> Json:
    """One position of v2 positionRisk."""
    return {
        **position_risk(row, instrument, liquidation_price),
        "marginType": "isolated" if row.isolated else "cross",
        "isAutoAddMargin": "false",
        "leverage": str(row.leverage),
        "maxNotionalValue": plain(instrument.max_notional_usdt(row.leverage)),
        "isolated": row.isolated,
        "adlQuantile": adl_quantile(row),
    }


def adl_quantile(row: PositionMargin) -> int:
    """Place in the queue for auto-deleveraging: nobody else is in it, so 1 for every position that is held."""
    return 1 if row.position.quantity else 0


def adl_quantiles(account: Account, symbol: str, rows: list[PositionMargin]) -> Json:
    """One entry of adlQuantile: LONG and SHORT, and BOTH (HEDGE in hedge mode under cross margin)."""
    quantiles = {LONG: 0, SHORT: 0}
    quantiles |= {row.position.side: adl_quantile(row) for row in rows}
    if account.hedge_mode:
        quantiles["BOTH" if account.is_isolated(symbol) else "HEDGE"] = 0
    return {"symbol": symbol, "adlQuantile": quantiles}


def symbol_config(account: Account, instrument: Instrument) -> Json:
    """One entry of symbolConfig."""
    leverage = account.leverage[instrument.symbol]
    return {
        "symbol": instrument.symbol,
        "marginType": "ISOLATED" if account.is_isolated(instrument.symbol) else "CROSSED",
        "isAutoAddMargin": False,
        "leverage": leverage,
        "maxNotionalValue": plain(instrument.max_notional_usdt(leverage)),
    }


def margin_change(change: MarginChange) -> Json:
    """One row of positionMargin/history: type 1 added, 2 taken out."""
    return {
        "symbol": change.symbol,
        "type": 1 if change.amount_usdt > 0 else 2,
        "deltaType": change.cause,
        "amount": amount_text(abs(change.amount_usdt)),
        "asset": "USDT",
        "time": change.time_ms,
        "positionSide": change.position_side,
    }


def leverage_brackets(instrument: Instrument) -> Json:
    """One entry of leverageBracket; numbers, not strings."""
    return {
        "symbol": instrument.symbol,
        "notionalCoef": 1.0,
        "brackets": [
            {
                "bracket": number,
                "initialLeverage": bracket.max_leverage,
                "notionalCap": int(bracket.notional_cap_usdt),
                "notionalFloor": int(bracket.notional_floor_usdt),
                "maintMarginRatio": float(bracket.maintenance_rate),
                "cum": float(bracket.maintenance_amount_usdt),
            }
            for number, bracket in enumerate(instrument.brackets, start=1)
        ],
    }


def _isolated(amount: Decimal) -> str:
    return amount_text(amount) if amount else "0"
