"""The report: weighted by patients, worst site named, JSON without surprises, one line for people."""

import json

from coordinator.report import (
    MAX_SCORE_WEIGHT,
    REPORT_FILE,
    RoundReport,
    RunReport,
    patient_mean,
    read_report,
    round_line,
    round_report,
    write_report,
)
from coordinator.state import AcceptedUpdate, PublishedRound, SiteScores, Traffic
from coordinator.testing import ToyFederation
from fedmentor.federation import Receipt, RoundRef
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId

DIGEST, NEXT = Digest("1" * 64), Digest("2" * 64)


def _scores(site, dice, patients, hd95=None, round_=0, undefined=None):
    return SiteScores(SiteId(site), Round(round_), DIGEST, patients, patients * 2, dice, dice / 2, hd95, undefined)


def _update(site, weight):
    ref = RoundRef(RunId("r"), Round(0), Attempt(1))
    return AcceptedUpdate(Receipt(ref, SiteId(site), DIGEST, "2026-01-01T00:00:00+00:00"), 8, weight)


DONE = PublishedRound(Round(0), Attempt(1), DIGEST, NEXT, 2.5, "2026-01-01T00:00:00+00:00", (SiteId("a"), SiteId("b")))
SCORES = [_scores("a", 0.8, 1, 4.0), _scores("b", 0.4, 3), _scores("c", 0.9, 1, round_=1)]
TRAFFIC = [Traffic(Round(0), SiteId("a"), 10, 20), Traffic(Round(1), SiteId("a"), 99, 99)]


def test_means_are_weighted_by_patients_and_the_worst_site_is_named():
    report = round_report(Round(0), DIGEST, SCORES, TRAFFIC, DONE, [_update("a", 30), _update("b", 10)])
    assert report.dice == (0.8 + 3 * 0.4) / 4
    assert report.hd95 == 4.0
    assert (report.worst_site, report.worst_dice) == ("b", 0.4)
    assert report.weights == {"a": 0.75, "b": 0.25}
    assert (report.bytes_up, report.bytes_down) == ({"a": 10}, {"a": 20})
    assert (report.published, report.seconds) == (NEXT, 2.5)


def test_images_without_a_distance_are_counted_where_every_site_says_how_many():
    a, b, silent = _scores("a", 0.8, 3, 4.0, undefined=2), _scores("b", 0.0, 1, undefined=2), _scores("c", 0.9, 1, 5.0)
    report = round_report(Round(0), DIGEST, [a, b], [])
    assert (report.hd95, report.hd95_undefined) == (4.0, 4)
    assert [(report.sites[site].hd95, report.sites[site].hd95_undefined) for site in ("a", "b")] == [(4.0, 2), (None, 2)]
    assert round_report(Round(0), DIGEST, [a, silent], []).hd95_undefined is None
    assert round_report(Round(0), DIGEST, [], []).hd95_undefined is None


def test_no_site_swamps_the_means_by_the_patients_that_it_claims():
    report = round_report(Round(0), DIGEST, [_scores("a", 1.0, 10**6), _scores("b", 0.0, MAX_SCORE_WEIGHT)], [])
    assert report.dice == 0.5
    assert report.sites["a"].patients == 10**6


def test_a_report_never_reads_the_whole_audit_chain(tmp_path):
    class Unread:
        def __init__(self, tx):
            self._tx = tx

        def __getattr__(self, name):
            assert name != "audit_records"
            return getattr(self._tx, name)

    federation = ToyFederation(tmp_path)
    federation.connect()
    federation.play()
    journal = federation.engine.journal
    report = journal.run_tx("read", lambda tx: read_report(Unread(tx)))
    records = journal.run_tx("read", lambda tx: tx.audit_records())
    assert (report.audit_records, report.audit_head) == (len(records), records[-1].hash)
    federation.close()


def test_a_round_without_anything_has_nothing():
    report = round_report(Round(5), DIGEST, SCORES, TRAFFIC)
    assert report == RoundReport(round=Round(5), model=DIGEST)
    assert patient_mean({}, {}) is None


def test_lines_for_people():
    done = round_report(Round(0), DIGEST, SCORES, TRAFFIC, DONE, [_update("a", 30), _update("b", 10)])
    assert round_line(done, 2) == "round 0/2  2 sites  Dice 0.5000  worst 0.4000 (b)  0.0 MB up  2.5 s"
    last = round_report(Round(1), NEXT, SCORES, TRAFFIC)
    assert round_line(last, 1) == "round 1/1  Dice 0.9000  worst 0.9000 (c)"
    assert round_line(RoundReport(round=Round(3), model=DIGEST), 5) == "round 3/5  no scores"


def test_the_file_reads_back(tmp_path):
    report = RunReport(
        run=RunId("r"),
        manifest=DIGEST,
        roster=(SiteId("a"),),
        quorum=1,
        total_rounds=1,
        phase="collect",
        round=Round(0),
        attempt=Attempt(1),
        outcome=None,
        reason="",
        model=DIGEST,
        audit_records=1,
        audit_head=DIGEST,
        rounds=(round_report(Round(0), DIGEST, SCORES, TRAFFIC),),
    )
    write_report(tmp_path, report)
    text = (tmp_path / REPORT_FILE).read_text()
    assert RunReport.model_validate_json(text) == report
    assert "NaN" not in text
    assert json.loads(text)["rounds"][0]["sites"]["b"]["hd95"] is None
