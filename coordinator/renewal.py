"""Where the registrar is online: the coordinator's documents are the registrar's newest, and its certificate is renewed in time.

This only writes files. LiveCertificate and LiveRevocations take up what comes, as they do where a person brings it.
"""

from __future__ import annotations

import asyncio
import traceback

from coordinator.events import CallFailed, Observer, RenewalFailed
from fedmentor.identity.renewal import COORDINATOR_SECONDS, Upkeep


async def keep_current(upkeep: Upkeep, observe: Observer, every_s: float = COORDINATOR_SECONDS) -> None:
    """Ask the registrar, for ever; on the event loop, with the asking in a thread."""
    while True:
        try:
            upkept = await asyncio.to_thread(upkeep.now)
            if upkept.failure:
                observe(RenewalFailed(upkept.failure))
        except Exception:  # noqa: BLE001 - whatever goes wrong once, the next look must happen
            observe(CallFailed("registrar", None, traceback.format_exc()))
        await asyncio.sleep(every_s)
