"""One line a round, for people or as JSON, made from a session's events."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fed_node.events import Delivered, Joined, RunOver, Scored, SessionEvent, Skipped, Trained
from fedmentor.federation import RoundRef


@dataclass(frozen=True)
class RoundLine:
    """What one attempt of one round was for this site.

    Attributes:
        dice: of the global model that the round starts from, on this site's held-out patients; None where it was not scored again.
        loss: mean training loss of the last epoch; None where nothing was trained.
        seconds: from the directive to the receipt.
        status: ``sent``, ``sent again``, ``scored`` (last model), or why there is no update.
    """

    round: int
    attempt: int
    dice: float | None
    loss: float | None
    seconds: float
    bytes_down: int
    bytes_up: int
    status: str

    def text(self) -> str:
        """For people, in columns."""
        dice = f"{self.dice:.4f}" if self.dice is not None else "     -"
        loss = f"{self.loss:.4f}" if self.loss is not None else "     -"
        traffic = f"{self.bytes_down / 1e6:5.1f} MB down {self.bytes_up / 1e6:5.1f} MB up"
        return f"round {self.round:3d}  Dice here {dice}  loss {loss}  {self.seconds:6.1f} s  {traffic}  {self.status}"

    def json(self) -> str:
        """For scripts, one object."""
        return json.dumps(asdict(self))


class RoundLines:
    """Collects a round's events until its line is complete."""

    def __init__(self) -> None:
        self._last: int | None = None  # number of the model that is only scored; unknown before the manifest
        self._dice: dict[RoundRef, float] = {}
        self._loss: dict[RoundRef, float] = {}

    def line(self, event: SessionEvent) -> RoundLine | None:
        """The line that this event completes, if it completes one."""
        match event:
            case Joined(rounds=rounds):
                self._last = rounds
            case Scored(ref, scores) if ref.round == self._last:
                return RoundLine(ref.round, ref.attempt, scores.dice, None, 0.0, 0, 0, "scored")
            case Scored(ref, scores):
                self._dice[ref] = scores.dice
            case Trained(ref, loss):
                self._loss[ref] = loss
            case Delivered(ref, bytes_down, bytes_up, seconds, again):
                return self._close(ref, seconds, (bytes_down, bytes_up), "sent again" if again else "sent")
            case Skipped(ref, reason):
                return self._close(ref, 0.0, (0, 0), reason)
            case _:
                pass
        return None

    def _close(self, ref: RoundRef, seconds: float, traffic: tuple[int, int], status: str) -> RoundLine:
        dice, loss = self._dice.pop(ref, None), self._loss.pop(ref, None)
        return RoundLine(ref.round, ref.attempt, dice, loss, seconds, *traffic, status)


def over_line(event: RunOver) -> str:
    """How the run ended, as JSON."""
    return json.dumps({"outcome": event.outcome.value, "reason": event.reason})
