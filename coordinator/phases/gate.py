"""Gate: let the sites score the round's model before it is published. Bounds: ``min_sites`` to all that take part; ``seconds``.

Only runs whose manifest has a gate come here, between aggregate and publish; see fedmentor.gate for the decision. A candidate that
passes goes on to be published, and its scores are kept as the next round's, so no site need say them again. One that does not pass
is never published: the round is void, the model that it started from stays in force, and the sites train the next round from it.
Sites send the updates of one round byte for byte again, so another attempt of this round would only make the same model.
"""

from __future__ import annotations

from coordinator.conduct import GateRecord
from coordinator.phases.phase import Context, Moved, Stay, to_phase, transition, waited_for
from coordinator.phases.reveal import void_round
from coordinator.progress import Moment
from coordinator.state import PhaseName, RunState, SiteScores
from coordinator.store.journal import Transaction
from fedmentor.audit import Fields
from fedmentor.errors import BrokenStore
from fedmentor.federation import RunManifest
from fedmentor.gate import GateVerdict, judge
from fedmentor.ids import Digest, Round, SiteId


def gate(context: Context, moment: Moment) -> Stay | Moved:
    """See the module. A site that has been gone for ``straggler_grace_s`` is not waited for.

    Raises:
        BrokenStore: the journal names no candidate, or the manifest no gate.
    """
    plan, candidate = context.manifest.gate, moment.state.pending
    if plan is None or candidate is None:
        raise BrokenStore("the journal is in the gate phase without a model to judge")
    missing = frozenset(context.manifest.roster) - moment.set_aside - moment.scored
    left_s = plan.seconds - moment.phase_elapsed_s
    grace_s = waited_for(context, missing)
    if left_s > 0 and (grace_s is None or grace_s > 0):
        return Stay(left_s if grace_s is None else min(left_s, grace_s))
    base, scores = context.journal.run_tx("read_scores", lambda tx: _scores(tx, moment))
    verdict = judge(plan, _dice(base), _dice(scores))

    def keep(tx: Transaction) -> None:
        state = moment.state
        tx.put_gate_record(GateRecord(state.round, state.attempt, candidate, verdict.sites, verdict.drop, passed=verdict.passed))
        for one in scores if verdict.passed else ():
            tx.put_scores(one)

    fields = _fields(candidate, verdict)
    if not verdict.passed:
        return void_round(context, moment, verdict.reason, fields=fields, also=keep)
    return transition(context, moment, "pass_gate", to_phase(moment, PhaseName.PUBLISH), fields=fields, also=keep)


def candidate_of(manifest: RunManifest, state: RunState) -> Digest | None:
    """The model that the gate is looking at; None in every other phase."""
    return state.pending if manifest.gate is not None and state.phase is PhaseName.GATE else None


def _scores(tx: Transaction, moment: Moment) -> tuple[tuple[SiteScores, ...], tuple[SiteScores, ...]]:
    """Scores of the model that the round started from, and of the candidate; without sites that were set aside."""
    state = moment.state
    both = tx.scores(state.round), tx.candidate_scores(Round(state.round + 1), state.attempt)
    base, candidate = (tuple(one for one in scores if one.site not in moment.set_aside) for scores in both)
    return base, candidate


def _dice(scores: tuple[SiteScores, ...]) -> dict[SiteId, float]:
    return {one.site: one.dice for one in scores}


def _fields(candidate: Digest, verdict: GateVerdict) -> Fields:
    return {"candidate": candidate, "sites": verdict.sites, "dice_drop": round(verdict.drop, 6), "reason": verdict.reason}
