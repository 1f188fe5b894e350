"""The coordinator's upkeep goes on whatever goes wrong once."""

import asyncio
import threading

from coordinator.events import CallFailed, RenewalFailed
from coordinator.renewal import keep_current
from fedmentor.identity.renewal import Upkept


class _Upkeep:
    """Has a bug once, then a failure, then nothing to do."""

    def __init__(self):
        self.looks = 0
        self.enough = threading.Event()

    def now(self):
        self.looks += 1
        if self.looks == 4:
            self.enough.set()
        if self.looks == 1:
            raise RuntimeError("private")
        return Upkept(failure="the registrar does not answer" if self.looks == 2 else "")


def test_failures_are_told_and_the_next_look_happens():
    upkeep, events = _Upkeep(), []

    async def play():
        task = asyncio.create_task(keep_current(upkeep, events.append, every_s=0.01))
        assert await asyncio.to_thread(upkeep.enough.wait, 20)
        task.cancel()

    asyncio.run(play())
    assert isinstance(events[0], CallFailed)
    assert events[1:] == [RenewalFailed("the registrar does not answer")]
