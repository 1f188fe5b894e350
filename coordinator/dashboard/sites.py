"""What the dashboard says of each site: a pure function of the journal and of what was seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from coordinator.conduct import SiteFlag
from coordinator.dashboard.reading import Reading
from coordinator.dashboard.sightings import UNSEEN, Sighting
from coordinator.dashboard.status import Part, SiteStatus
from coordinator.dashboard.wording import finite, set_aside_reason, shown_text
from coordinator.progress import SHORT_STEPS
from coordinator.report import SiteReport
from coordinator.state import PhaseName
from fedmentor.ids import Round, SiteId
from fedmentor.robust import Flag


def site_statuses(reading: Reading, sightings: Mapping[SiteId, Sighting]) -> tuple[SiteStatus, ...]:
    """Every site of the roster.

    Args:
        sightings: of sites; one that is not in it was never seen.
    """
    newest: dict[SiteId, tuple[Round, SiteReport]] = {}
    for entry in reading.report.rounds:
        newest |= {site: (entry.round, scores) for site, scores in entry.sites.items()}
    up = _totals(entry.bytes_up for entry in reading.report.rounds)
    down = _totals(entry.bytes_down for entry in reading.report.rounds)
    return tuple(
        _site(site, reading, sightings.get(site, UNSEEN), newest.get(site), (up[site], down[site]))
        for site in reading.manifest.roster
    )


def _totals(counts: Iterable[Mapping[SiteId, int]]) -> defaultdict[SiteId, int]:
    totals: defaultdict[SiteId, int] = defaultdict(int)
    for one in counts:
        for site, bytes_ in one.items():
            totals[site] += bytes_
    return totals


def _site(
    site: SiteId, reading: Reading, sighting: Sighting, newest: tuple[Round, SiteReport] | None, bytes_: tuple[int, int]
) -> SiteStatus:
    part, reason = _part(site, reading, sighting)
    return SiteStatus(
        site=site,
        connected=sighting.connected,
        last_seen_s=finite(sighting.last_seen_s),
        certificate_until_utc=sighting.certificate_until.isoformat() if sighting.certificate_until else None,
        part=part,
        reason=shown_text(reason),
        bytes_up=bytes_[0],
        bytes_down=bytes_[1],
        round=newest[0] if newest else None,
        dice=finite(newest[1].dice) if newest else None,
        patients=newest[1].patients if newest else None,
        countersigned=site in reading.signers,
    )


def _part(site: SiteId, reading: Reading, sighting: Sighting) -> tuple[Part, str]:
    """What a site has done in the attempt in force, and why where that needs a reason; the first that holds."""
    state = reading.state
    if any(entry.site == site for entry in reading.set_aside):
        return Part.SET_ASIDE, set_aside_reason(_flagged(site, reading))
    if state.phase is PhaseName.SHUTDOWN:
        return Part.NONE, ""
    if site in reading.done:
        return (Part.ACCEPTED if state.phase is PhaseName.COLLECT else Part.ANSWERED), ""
    if sighting.sat_out == state.ref(reading.manifest.run):
        return Part.SAT_OUT, sighting.sat_out_reason
    if any(one.flag is Flag.REFUSED and one.site == site for one in _flags_now(reading)):
        return Part.REFUSED, sighting.refused_reason
    if site in reading.asked and state.phase is not PhaseName.IDLE:
        return Part.AWAITED, ""
    if site in reading.delivered:
        return Part.ACCEPTED, ""
    is_step = state.phase in SHORT_STEPS or state.phase is PhaseName.COLLECT
    return (Part.DROPPED if is_step else Part.NONE), ""


def _flags_now(reading: Reading) -> Iterable[SiteFlag]:
    state = reading.state
    return (one for one in reading.flags if (one.round, one.attempt) == (state.round, state.attempt))


def _flagged(site: SiteId, reading: Reading) -> dict[str, tuple[Round, ...]]:
    rounds: dict[str, tuple[Round, ...]] = {}
    for one in reading.flags:
        if one.site == site and one.round not in rounds.get(one.flag.value, ()):
            rounds[one.flag.value] = (*rounds.get(one.flag.value, ()), one.round)
    return rounds
