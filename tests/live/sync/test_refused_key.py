"""A key that the exchange no longer takes ends a sync with a clear error: asking again would not help."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from sync_support import SyncRig, sync_rig

from envs.errors import AuthenticationError
from live.sync import PositionSync

REFUSED = {"code": -2015, "message": "Invalid API-key, IP, or permissions for action.", "http_status": 401}


async def ended(rig: SyncRig) -> None:
    with suppress(AuthenticationError):
        await rig.until(lambda: rig.sync.error is not None)


@pytest.mark.parametrize("path", ["/fapi/v1/listenKey", "/fapi/v1/userTrades", "/fapi/v1/income"])
async def test_a_key_that_is_revoked_while_running(tmp_path: Path, path: str) -> None:
    """At the stream, and at each part of the history that is read again after a hole in it."""
    async with sync_rig(tmp_path / "a.db") as rig:
        sync = PositionSync(rig.sync)
        (await sync.once()).check()
        await rig.fault("refuse", path=path, count=1000, **REFUSED)
        await rig.fault("close_sockets")
        await ended(rig)
        assert isinstance(rig.sync.error, AuthenticationError)
        assert not rig.sync.is_caught_up
        with pytest.raises(AuthenticationError, match="Invalid API-key") as told:
            rig.sync.check()
        assert "API" in str(told.value)
        # Nobody goes on comparing with a ledger that has stopped.
        with pytest.raises(AuthenticationError):
            await sync.once()
        with pytest.raises(AuthenticationError):
            await rig.sync.catch_up()


async def test_a_position_sync_ends_with_a_refused_key(tmp_path: Path) -> None:
    async with sync_rig(tmp_path / "a.db") as rig:
        sync = PositionSync(rig.sync)
        await rig.fault("refuse", path="/fapi/v3/account", count=1000, **REFUSED)
        sync.start()
        task = sync._task
        assert task is not None
        async with asyncio.timeout(20):
            await asyncio.wait({task})
        with pytest.raises(AuthenticationError, match="Invalid API-key"):
            await sync.close()
        assert (sync.syncs, sync.last) == (0, None)
