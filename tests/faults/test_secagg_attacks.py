"""A malicious coordinator, with a colluding site, against the real site: what it tries, and the check that stops it.

The attacks stand in a file for each step of the protocol. Each is one test here; its name says what is tried and which refusal
answers. ``python -m pytest -rA tests/faults/test_secagg_attacks.py`` prints the table.
"""

from __future__ import annotations

from pathlib import Path

import attacks_on_adverts
import attacks_on_consents
import attacks_on_context
import attacks_on_reveals
import attacks_on_shares
import pytest
from malicious_coordinator import SITES, Play

from fedmentor.secagg.refusal import ProtocolRefused
from fedmentor.testing.secagg import plain_sum

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "secure-aggregation.md"
STEPS = (attacks_on_context, attacks_on_adverts, attacks_on_shares, attacks_on_consents, attacks_on_reveals)
ATTACKS = {name: attack for step in STEPS for name, attack in step.ATTACKS.items()}


OVER = {
    "a commit of a site that did not advertise",
    "a consent of a site that is no survivor",
    "a first reveal after the attempt was given up",
}
"""In these the sites have bound themselves to something else before the refusal."""


@pytest.mark.parametrize("name", ATTACKS, ids=[f"{name} -> {reason.value}" for name, (reason, _) in ATTACKS.items()])
def test_attack(name):
    reason, carry_out = ATTACKS[name]
    play = Play()
    with pytest.raises(ProtocolRefused) as refusal:
        carry_out(play)
    assert refusal.value.reason is reason
    # A refusal changes nothing: the honest attempt goes on from where it stood and gives the plain sum.
    if name not in OVER:
        assert play.finish() == plain_sum(play.words, tuple(range(SITES)))


def test_at_least_thirty_attacks_and_all_of_them_in_the_documentation():
    assert len(ATTACKS) == sum(len(step.ATTACKS) for step in STEPS) >= 30
    text = DOCUMENT.read_text()
    assert [name for name, (reason, _) in ATTACKS.items() if f"| {name} | `{reason.value}` |" not in text] == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.split(" | ")[0][2:] in ATTACKS]
    assert len(rows) == len(ATTACKS)
