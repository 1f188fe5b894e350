"""The phases aggregate and publish: what is damaged on disk is not averaged, and nothing stays behind."""

import pytest
from phased_federation import audit_of, collecting

from coordinator.state import PhaseName
from fedmentor.errors import BrokenStore
from fedmentor.federation import Outcome


def _deliver_all(federation):
    collecting(federation)
    for site in federation.manifest.roster:
        federation.send(site)


def test_a_bit_that_flipped_on_disk_fails_the_attempt_and_names_the_site(federation):
    _deliver_all(federation)
    (stored,) = (federation.state / "spool" / "b").glob("*.words")
    data = bytearray(stored.read_bytes())
    data[7] ^= 4
    stored.write_bytes(data)
    assert federation.settle() is PhaseName.COLLECT
    assert (federation.moment.state.round, federation.moment.state.attempt) == (0, 2)
    failed = [record for record in audit_of(federation) if record.event == "fail_attempt"]
    assert "site b was damaged" in failed[0].fields
    federation.play()
    assert federation.moment.state.outcome is Outcome.COMPLETED


def test_a_spool_file_that_is_gone_fails_the_attempt(federation):
    _deliver_all(federation)
    next((federation.state / "spool" / "a").glob("*.words")).unlink()
    federation.settle()
    assert federation.moment.state.attempt == 2


def _damage_base_model(federation):
    path = federation.state / "models" / federation.moment.state.model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)


def test_a_bit_that_flipped_in_the_base_model_is_not_averaged(federation):
    _deliver_all(federation)
    _damage_base_model(federation)
    with pytest.raises(BrokenStore, match="damaged on disk"):
        federation.settle()
    assert (federation.moment.state.phase, federation.moment.state.round) == (PhaseName.AGGREGATE, 0)


def test_a_round_does_not_open_on_a_damaged_model(federation):
    federation.connect()
    _damage_base_model(federation)
    with pytest.raises(BrokenStore, match="damaged on disk"):
        federation.settle()
    assert federation.moment.state.phase is PhaseName.OPEN


def test_a_disk_that_refuses_the_model_stops_the_driver_and_loses_nothing(federation):
    _deliver_all(federation)
    federation.engine.driver.step()
    assert federation.moment.state.phase is PhaseName.AGGREGATE
    models = federation.state / "models"
    models.rename(federation.state / "elsewhere")
    with pytest.raises(BrokenStore):
        federation.engine.driver.step()
    (federation.state / "elsewhere").rename(models)
    federation.reopen()
    federation.connect()
    federation.play()
    assert federation.moment.state.outcome is Outcome.COMPLETED


def test_the_spool_is_empty_when_a_round_opens_and_when_the_run_is_over(federation):
    _deliver_all(federation)
    assert federation.settle() is PhaseName.COLLECT
    assert [path for path in (federation.state / "spool").rglob("*") if path.is_file()] == []
    federation.play()
    for site in federation.manifest.roster:
        federation.stream(site).poll()
    assert federation.engine.driver.step() is None
    assert [path for path in (federation.state / "spool").rglob("*") if path.is_file()] == []
