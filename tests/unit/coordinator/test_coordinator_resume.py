"""Kill and restart: after any step of a run, reopening the state folder and going on gives the undisturbed run's models.

What this cannot show is a torn write; the journal and ``write_atomically`` answer for that. Here every transaction boundary is cut.
"""

import pytest

from coordinator.state import PhaseName
from coordinator.store.memory import MemoryJournal
from coordinator.testing import ToyFederation, toy_words
from fedmentor.audit import verify
from fedmentor.federation import Outcome, Receipt
from fedmentor.testing.clock import ManualClock


def _models(federation):
    report = federation.engine.report()
    assert report.outcome == "completed"
    return [entry.model for entry in report.rounds]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    federation = ToyFederation(tmp_path_factory.mktemp("undisturbed"))
    federation.connect()
    federation.play()
    models = _models(federation)
    federation.close()
    return models


def _steps(federation):
    """A run as single steps, each one call of the driver or of one site; looks at the journal alone, so it can go on anywhere."""
    while True:
        moment = federation.moment
        if moment.state.phase is PhaseName.SHUTDOWN:
            return
        waiting = [site for site in federation.manifest.roster if site not in moment.delivered]
        unscored = [site for site in federation.manifest.roster if site not in moment.scored]
        if moment.state.phase is PhaseName.COLLECT and waiting:
            federation.score(waiting[-1]) if waiting[-1] in unscored else federation.send(waiting[-1])
        elif moment.state.phase is PhaseName.EVALUATE and unscored:
            federation.score(unscored[0])
        else:
            federation.engine.driver.step()
        yield


def _count_steps(folder):
    federation = ToyFederation(folder)
    federation.connect()
    count = sum(1 for _ in _steps(federation))
    federation.close()
    return count


def test_a_restart_after_any_one_step_changes_nothing(tmp_path, undisturbed):
    for cut in range(_count_steps(tmp_path / "count")):
        federation = ToyFederation(tmp_path / str(cut))
        federation.connect()
        for number, _ in enumerate(_steps(federation)):
            if number == cut:
                break
        federation.reopen()
        federation.connect()
        for _ in _steps(federation):
            pass
        assert _models(federation) == undisturbed, f"cut after step {cut}"
        records = federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())
        assert verify(records).sound
        accepted = [record for record in records if record.event == "accept_update"]
        assert len(accepted) == 6, f"cut after step {cut}"
        federation.close()


def test_a_restart_after_every_step_changes_nothing(tmp_path, undisturbed):
    federation = ToyFederation(tmp_path)
    federation.connect()
    while federation.moment.state.phase is not PhaseName.SHUTDOWN:
        next(_steps(federation), None)
        federation.reopen()
        federation.connect()
    assert _models(federation) == undisturbed
    federation.close()


def test_the_order_of_arrival_and_the_store_change_nothing(tmp_path, undisturbed):
    federation = ToyFederation(tmp_path, journal=MemoryJournal(ManualClock()))
    federation.connect()
    federation.play(["c", "a", "b"])
    assert _models(federation) == undisturbed


def test_a_death_between_rename_and_commit_is_healed_by_the_sites_retry(tmp_path):
    federation = ToyFederation(tmp_path)
    federation.connect()
    federation.settle()
    words = toy_words("a", federation.ref, federation.manifest)
    header = federation.header(words)
    service = federation.engine.service
    service.append_update("a", header, 0, words)
    service._uploads._ports.spool.seal("a", header)  # and then the process dies
    federation.reopen()
    assert isinstance(federation.engine.service.offer_update("a", header), Receipt)
    federation.connect()
    federation.play()
    assert federation.moment.state.outcome is Outcome.COMPLETED
    federation.close()


def test_a_finished_run_stays_finished(tmp_path, undisturbed):
    federation = ToyFederation(tmp_path)
    federation.connect()
    federation.play()
    federation.reopen()
    assert _models(federation) == undisturbed
    federation.close()
