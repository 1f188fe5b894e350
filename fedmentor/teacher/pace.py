"""How long everybody waits for a teacher, from the one number that TorchServe allows its worker. Imports nothing heavy.

The number stands in the archive (``responseTimeout`` of model-config.yaml) and in a running server's state file; whoever waits
takes it from there. Each waits longer than those whose faults he would otherwise take for his own: the worker is killed first,
then the keeper starts the server again, and only then does a client give up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedmentor.errors import ConfigError

USUAL_BATCH = 4
"""Requests handed to the worker together. Small, because a request waits for its whole batch; more are for a GPU."""

USUAL_RESPONSE_S = 120
"""For a batch of the smaller teachers: thirty times what LiteMedSAM takes for one on an idle core, twenty times SAM-Med2D."""

_BUSY = 8
"""So many times its processor seconds may a batch take where others want the processor."""

_STARTUP_S = 180
"""Loading a gigabyte of weights on a busy machine."""

_MOST_SECONDS = 86_400
_MOST_IN_FLIGHT = 8


@dataclass(frozen=True)
class Pace:
    """Who waits how long for a teacher.

    Attributes:
        response_s: for a batch, seconds; after that TorchServe kills the worker.
        batch_images: requests handed to the worker together.

    Raises:
        ConfigError: one is out of range.
    """

    response_s: int = USUAL_RESPONSE_S
    batch_images: int = USUAL_BATCH

    def __post_init__(self) -> None:
        if not (USUAL_RESPONSE_S <= self.response_s <= _MOST_SECONDS and self.batch_images >= 1):
            raise ConfigError(f"a worker cannot have {self.response_s} s for {self.batch_images} images", cure="build it again")

    @property
    def alone_s(self) -> float:
        """For an answer that has nothing before it but the batch under way."""
        return self.response_s - 60.0

    @property
    def status_s(self) -> float:
        """For an answer of the kind somebody waits for in front of a terminal."""
        return self.alone_s / 2

    @property
    def startup_s(self) -> float:
        """From the start to the first answer."""
        return max(float(_STARTUP_S), self.response_s + 60.0)

    @property
    def probe_s(self) -> float:
        """For the keeper's tiny prediction."""
        return float(self.response_s)

    @property
    def unhealthy_s(self) -> float:
        """From the last answered probe until the server is started again."""
        return 2.0 * self.response_s

    @property
    def answer_s(self) -> float:
        """For a client's request, its time in the queue included: outlasts the keeper's patience, so that a restart heals it."""
        return 2.5 * self.response_s

    @property
    def in_flight(self) -> int:
        """Requests of a client at a time: two batches, so that none waits for long and the keeper's probe gets its turn."""
        return min(_MOST_IN_FLIGHT, 2 * self.batch_images)

    def to_json(self) -> dict[str, int]:
        """As it stands in a state file."""
        return {"response_s": self.response_s, "batch_images": self.batch_images}


def pace_of(image_seconds: float, batch_images: int | None = None) -> Pace:
    """The pace of an architecture.

    Args:
        image_seconds: processor seconds that a new image takes, with one thread.
        batch_images: None for the usual batch, or one image where a batch of them would take too long.
    """
    if batch_images is None:
        batch_images = USUAL_BATCH if _BUSY * USUAL_BATCH * image_seconds <= USUAL_RESPONSE_S else 1
    # What is more than the usual batch is for a GPU, which takes no longer for it.
    return Pace(max(USUAL_RESPONSE_S, round(_BUSY * image_seconds * min(batch_images, USUAL_BATCH))), batch_images)


def read_pace(state: dict[str, Any]) -> Pace:
    """The pace in a server's state file; the usual one where it holds none.

    Raises:
        ConfigError, KeyError, TypeError, ValueError: it holds something else.
    """
    value = state.get("pace")
    return Pace() if value is None else Pace(int(value["response_s"]), int(value["batch_images"]))
