"""Requests that lead nowhere: made and answered like others, whatever address they name, and never sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import NoReturn

import aiohttp
import pytest
import pytest_asyncio

from live.exchange.dead_end import DeadEnd

URL = "https://fapi.binance.com/fapi/v1/order?symbol=BTCUSDT&quantity=0.002"


@pytest_asyncio.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("somebody connects to an address")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "sock_connect", refuse)
    monkeypatch.setattr(loop, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    async with aiohttp.ClientSession(connector=DeadEnd()) as one:
        yield one


async def test_every_request_is_answered(session: aiohttp.ClientSession) -> None:
    for _ in range(3):
        async with session.post(URL, headers={"X-MBX-APIKEY": "none"}) as response:
            assert (response.status, await response.json()) == (200, {})
    replies = await asyncio.gather(*(session.get(f"{URL}&n={n}") for n in range(20)))
    assert [reply.status for reply in replies] == [200] * 20
    for reply in replies:
        reply.close()


async def test_a_request_that_comes_in_pieces_has_one_answer(session: aiohttp.ClientSession) -> None:
    """One too many would end the connection, and the next request would need another."""
    headers = {f"X-Long-{n}": "x" * 8000 for n in range(40)}
    async with session.post(URL, headers=headers) as response:
        await response.read()
    connector = session.connector
    assert connector is not None
    (first,) = [one for waiting in connector._conns.values() for one, _ in waiting]
    async with session.post(URL) as response:
        await response.read()
    (second,) = [one for waiting in connector._conns.values() for one, _ in waiting]
    assert first is second


async def test_a_request_that_is_cancelled_leaves_nothing_behind(session: aiohttp.ClientSession) -> None:
    """Whenever that is: the connection is used again, or given up."""
    for turns in range(12):
        task = asyncio.ensure_future(session.post(URL))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result().close()
    async with session.post(URL) as response:
        assert await response.json() == {}
