"""Mutations of the export of a real run: any bit, line or end that is changed, dropped, moved, doubled or cut off is found.

FEDMENTOR_AUDIT_MUTATIONS is their number: 500 in the normal gate, 10 000 in the long campaign. The counts are printed with -s.
Half of the mutators are careful: they mend the last line, which counts the others, so that only signatures and chain can give them
away.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from simulated_federation import Federation, check_audit
from simulated_site import AUDIT_KEYS, SITES

from coordinator.audit.cli import audit
from coordinator.audit.reading import read_trail, write_export
from fedmentor.audit import verify
from fedmentor.audit.checkpoint import is_countersigned, is_signed
from fedmentor.audit.export import AuditTrail, trail_from_lines
from fedmentor.audit.review import review
from fedmentor.errors import DataError

MUTATIONS = int(os.environ.get("FEDMENTOR_AUDIT_MUTATIONS", "500"))
SEED = 20231115
THROUGH_THE_COMMAND = 25
"""So many of them are also shown to the command itself, as files."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The export of a run of two rounds that four sites have witnessed to its end."""
    folder = tmp_path_factory.mktemp("audited")
    federation = Federation(folder, audited=True)
    federation.heal()
    check_audit(federation)
    federation.close()
    write_export(read_trail(federation.state), folder / "export.jsonl")
    return (folder / "export.jsonl").read_text().splitlines()


KINDS = ("export", "actor", "checkpoint", "countersignature", "end")


def kind_of(line: str) -> str:
    """What a line of an export is."""
    return next((kind for kind in KINDS if line.startswith(f'{{"{kind}"')), "")


def mended(lines: list[str]) -> list[str]:
    """The lines with an end that counts them right."""
    counts = Counter(kind_of(line) for line in lines)
    end = {
        "checkpoints": counts["checkpoint"],
        "countersignatures": counts["countersignature"],
        "records": counts["actor"],
    }
    return [*(line for line in lines if kind_of(line) != "end"), json.dumps({"end": end}, separators=(",", ":"))]


def some(lines: list[str], draw: random.Random, among: tuple[str, ...] = ("actor", "checkpoint", "countersignature")) -> int:
    """A line of one of these kinds; each kind is as likely as another one."""
    kind = draw.choice(among)
    return draw.choice([number for number, line in enumerate(lines) if kind_of(line) == kind])


def flip(lines: list[str], draw: random.Random) -> list[str]:
    """One bit of any line."""
    number = some(lines, draw, KINDS)
    data = bytearray(lines[number].encode())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return [*lines[:number], data.decode(errors="replace"), *lines[number + 1 :]]


def drop(lines: list[str], draw: random.Random) -> list[str]:
    """A line is missing."""
    number = some(lines, draw)
    return [*lines[:number], *lines[number + 1 :]]


def double(lines: list[str], draw: random.Random) -> list[str]:
    """A line stands twice: side by side, or the second one anywhere."""
    number = some(lines, draw)
    place = number if draw.random() < 0.5 else draw.randrange(1, len(lines))
    return [*lines[:place], lines[number], *lines[place:]]


def move(lines: list[str], draw: random.Random) -> list[str]:
    """A line stands elsewhere."""
    number, place = some(lines, draw), draw.randrange(1, len(lines) - 1)
    rest = [*lines[:number], *lines[number + 1 :]]
    return [*rest[:place], lines[number], *rest[place:]]


def swap(lines: list[str], draw: random.Random) -> list[str]:
    """Two lines of one kind change places."""
    number = some(lines, draw)
    other = some(lines, draw, (kind_of(lines[number]),))
    changed = list(lines)
    changed[number], changed[other] = lines[other], lines[number]
    return changed


def cut(lines: list[str], draw: random.Random) -> list[str]:
    """The last records, checkpoints or countersignatures are missing, or the end of the file."""
    kind = draw.choice(["actor", "checkpoint", "countersignature", "file"])
    if kind == "file":
        text = "\n".join(lines)
        return text[: draw.randrange(len(text))].splitlines()
    numbers = [number for number, line in enumerate(lines) if kind_of(line) == kind]
    gone = set(numbers[draw.randrange(len(numbers)) :])
    return [line for number, line in enumerate(lines) if number not in gone]


MUTATORS: tuple[Callable[[list[str], random.Random], list[str]], ...] = (flip, drop, double, move, swap, cut)


def mutate(lines: list[str], draw: random.Random) -> tuple[str, list[str]]:
    """A mutation that changes something, and what to call it."""
    while True:
        mutator = draw.choice(MUTATORS)
        changed = mutator(lines, draw)
        careful = draw.random() < 0.5
        if careful:
            changed = mended(changed)
        if changed != lines:
            return f"{mutator.__name__}{', careful' if careful else ''}", changed


def found(lines: list[str]) -> bool:
    """Whether the review finds that something is wrong."""
    try:
        return not review(trail_from_lines(lines), AUDIT_KEYS).sound
    except DataError:
        return True


def test_the_export_itself_is_sound(lines: list[str]):
    assert not found(lines)
    assert mended(lines) == lines, "a careful mutator makes the end as it should be"
    assert {kind_of(line) for line in lines} == set(KINDS)


def test_every_mutation_is_found(lines: list[str], tmp_path: Path):
    draw = random.Random(SEED)
    made: Counter[str] = Counter()
    missed = []
    for number in range(MUTATIONS):
        name, changed = mutate(lines, draw)
        made[name] += 1
        if not found(changed):
            missed.append((name, changed))
        if number < THROUGH_THE_COMMAND:
            file = tmp_path / "mutated.jsonl"
            file.write_text("".join(f"{line}\n" for line in changed))
            result = CliRunner().invoke(audit, ["verify", str(file)], standalone_mode=False)
            # Without keys a signature that is not what it was is found all the same: the chain tells its digest.
            assert result.return_value == 3 or isinstance(result.exception, DataError), name
    counts = {"mutations": sum(made.values()), "found": sum(made.values()) - len(missed), "made": dict(sorted(made.items()))}
    print(json.dumps({**counts, "lines": len(lines), "sites": len(SITES)}, indent=2))  # noqa: T201 - the campaign's result
    assert missed == []
    assert sum(made.values()) == MUTATIONS


def chain_alone(trail: AuditTrail) -> bool:
    """A review that looks at no signature."""
    return verify(trail.records).sound


def signatures_alone(trail: AuditTrail) -> bool:
    """A review that looks at nothing else."""
    checkpoints = {signed.records: signed.checkpoint for signed in trail.checkpoints}
    return all(is_signed(signed, AUDIT_KEYS) for signed in trail.checkpoints) and all(
        item.records in checkpoints and is_countersigned(checkpoints[item.records], item, AUDIT_KEYS)
        for item in trail.countersignatures
    )


@pytest.mark.parametrize("blind", [chain_alone, signatures_alone])
def test_a_review_that_does_half_the_work_is_found_out(lines: list[str], blind: Callable[[AuditTrail], bool]):
    draw = random.Random(SEED)
    missed = 0
    for _ in range(100):
        try:
            missed += blind(trail_from_lines(mutate(lines, draw)[1]))
        except DataError:
            continue
    assert missed > 0, "the campaign would not notice"
