"""The coordinator's own certificate, renewed in time where the registrar is online. LiveCertificate takes up what comes."""

from __future__ import annotations

import asyncio
import traceback

from coordinator.events import CallFailed, Observer, RenewalFailed
from fedmentor.errors import FedMentorError
from fedmentor.identity.renewal import LOOK_SECONDS, Renewals


async def keep_renewing(renewals: Renewals, observe: Observer) -> None:
    """Ask the registrar when it is time, for ever; on the event loop, with the asking in a thread."""
    while True:
        try:
            outcome = await asyncio.to_thread(renewals.now)
            if isinstance(outcome, FedMentorError):
                observe(RenewalFailed(outcome.message))
        except Exception:  # noqa: BLE001 - whatever goes wrong once, the next look must happen
            observe(CallFailed("renewal", None, traceback.format_exc()))
        await asyncio.sleep(LOOK_SECONDS)
