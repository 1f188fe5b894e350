"""The coordinator's side of one secure attempt, in every group of the run: what fedmentor.secagg.aggregator does, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.state import PhaseName
from fedmentor.ids import Digest, SiteId
from fedmentor.secagg.aggregator import Advertising, Collecting, Consenting, Revealing, Sharing, Unmasking
from fedmentor.secagg.messages import bundle_bytes, sender_of, shares_from_bytes
from fedmentor.secagg.plan import Group, SecurePlan
from fedmentor.secagg.reading import indexes_bytes
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import signed_from_bytes
from fedmentor.secagg.transcript import Context


class GroupAttempt:
    """The coordinator's side of one attempt in one group. Not thread-safe by itself.

    Attributes:
        group: who aggregates.
        phase: the protocol's phase that takes messages; the Unmasking once all are closed.
        lost: why the attempt is over for this group; empty while it is not.
    """

    def __init__(self, group: Group, context: Context, words: int) -> None:
        self.group = group
        self.phase: Advertising | Sharing | Collecting | Consenting | Revealing | Unmasking
        self.phase = Advertising(group.terms, context, words)
        self.lost = ""
        self.audit_root = context.audit_root
        # What goes to the site at each place, by the phase in which it is asked for; made once, because every wake asks for it.
        self._outgoing: dict[PhaseName, dict[int, bytes]] = {}

    def add(self, message: bytes, words_sha256: Digest | None = None) -> None:
        """Take a message of the step in force.

        Args:
            words_sha256: in the upload step, of the masked words that arrived.

        Raises:
            ProtocolRefused: a check of the protocol does not hold.
        """
        match self.phase:
            case Sharing() as sharing:
                sharing.add(shares_from_bytes(message))
            case Collecting() as collecting:
                collecting.add(signed_from_bytes(message), words_sha256 or Digest(""))
            case Unmasking():
                raise _over()
            case one:
                one.add(signed_from_bytes(message))

    def close(self) -> None:
        """End the step in force and begin the next one; with too few sites, or shares that rebuild nothing, the group is lost."""
        if self.lost:
            return
        try:
            self._close()
        except ProtocolRefused as error:
            self.lost = error.message

    def asked(self, phase: PhaseName, index: int) -> bytes | None:
        """What the site at this place of the group is sent in a phase; None where it has no part in it."""
        if self.lost:
            return None
        match phase:
            case PhaseName.ADVERTISE:
                return bytes.fromhex(self.audit_root)
            case _:
                return self._outgoing.get(phase, {}).get(index)

    def _close(self) -> None:
        match self.phase:
            case Advertising() as one:
                adverts, self.phase = one.close()
                self._outgoing[PhaseName.SHARE] = dict.fromkeys(map(sender_of, adverts), bundle_bytes(adverts))
            case Sharing() as one:
                deliveries, self.phase = one.close()
                self._outgoing[PhaseName.COLLECT] = {index: delivery.to_bytes() for index, delivery in deliveries.items()}
            case Collecting() as one:
                survivors, self.phase = one.close()
                self._outgoing[PhaseName.CONSENT] = dict.fromkeys(survivors, indexes_bytes(survivors))
            case Consenting() as one:
                consents, self.phase = one.close()
                self._outgoing[PhaseName.REVEAL] = dict.fromkeys(map(sender_of, consents), bundle_bytes(consents))
            case Revealing() as one:
                self.phase = one.close()
            case Unmasking():
                raise _over()


@dataclass(frozen=True)
class Opened:
    """A group whose sum can be opened.

    Attributes:
        name: of the group.
        survivors: whose uploads are in the sum.
        liars: sites that revealed a share which does not fit.
        unmasking: what takes the masks away.
    """

    name: str
    survivors: tuple[SiteId, ...]
    liars: tuple[SiteId, ...]
    unmasking: Unmasking


class SecureAttempt:
    """One attempt in all groups of a run; a run without groups has one."""

    def __init__(self, plan: SecurePlan, attempts: tuple[GroupAttempt, ...]) -> None:
        self._needed = plan.needed_groups
        self._attempts = attempts
        self._places = {site: (one, index) for one in attempts for index, site in enumerate(one.group.sites)}

    def place(self, site: SiteId) -> tuple[GroupAttempt, int]:
        """The group that a site is in, and its index there."""
        return self._places[site]

    def close(self) -> None:
        """End the step in force in every group and begin the next one.

        Raises:
            ProtocolRefused: too few groups are left; the attempt is over.
        """
        for one in self._attempts:
            one.close()
        lost = [one for one in self._attempts if one.lost]
        if len(self._attempts) - len(lost) < self._needed:
            where = f"{lost[-1].group.name}: " if len(self._attempts) > 1 else ""
            raise ProtocolRefused(Reason.TOO_FEW_SITES, f"{where}{lost[-1].lost}")

    def asked(self, phase: PhaseName, site: SiteId) -> bytes | None:
        """What a site is sent in a phase; None where it has no part in it."""
        one, index = self._places[site]
        return one.asked(phase, index)

    def opened(self) -> tuple[Opened, ...]:
        """The groups whose sums can be opened; none before the last step is closed."""
        return tuple(
            Opened(one.group.name, _sites(one, one.phase.survivors), _sites(one, one.phase.liars), one.phase)
            for one in self._attempts
            if isinstance(one.phase, Unmasking) and not one.lost
        )


def _sites(one: GroupAttempt, indexes: tuple[int, ...]) -> tuple[SiteId, ...]:
    return tuple(one.group.sites[index] for index in indexes)


def _over() -> ProtocolRefused:
    return ProtocolRefused(Reason.OUT_OF_ORDER, "this attempt is over")
