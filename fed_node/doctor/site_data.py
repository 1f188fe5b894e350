"""The site's images: how many, what is wrong with them, and which attributes say who they show. Names and counts, never values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fed_node.data.check import Report
from fed_node.data.dataset import HELD_OUT, TRAIN
from fed_node.doctor.finding import Finding, fault, good, note, warning

CHECK = "data"
MIN_PATIENTS = 2
EXPORT_CURE = "see docs/data.md, PACS exports; 'fedmentor data check' counts everything"


def counts(images: int, masks: int, patients: int) -> Finding:
    """How much there is; images without a mask take no part."""
    said = f"{images} usable images of {patients} patients, {masks} with a mask"
    if not masks:
        return fault(CHECK, said, "give the images masks: without one an image takes no part in training and scoring")
    return good(CHECK, said)


def closed(path: str, reason: str) -> Finding:
    """Files that the node's user may not read, or cannot."""
    return fault(CHECK, f"{path} cannot be read: {reason}", "let the node's user read the folder and all that is in it")


def split(sides: Mapping[str, int]) -> Finding:
    """Whether there is something to train on and something to score on.

    Args:
        sides: number of images with a mask, by value of the column ``split``.
    """
    train, held_out = sides.get(TRAIN, 0), sides.get(HELD_OUT, 0)
    said = f"{train} images to train on, {held_out} held out"
    if not train or not held_out:
        return fault(CHECK, said, f"the site needs patients with masks on both sides of the split ({TRAIN} and {HELD_OUT})")
    return good(CHECK, said)


def undecided(patients: int) -> Finding:
    """An export whose split is not known yet, because it depends on the site's key, which the first start of the node makes.

    Args:
        patients: that have a mask.
    """
    if patients < MIN_PATIENTS:
        return fault(CHECK, f"{patients} patients have a mask", "the site needs two at least: one to train on, one held out")
    return good(CHECK, f"{patients} patients with a mask; the node splits them when it first starts")


def dataset_faults(report: Report) -> list[Finding]:
    """One line a kind of fault, with how many files have it and the first of them."""
    kinds = Counter(finding.code for finding in report.findings)
    first = {finding.code: finding for finding in reversed(report.findings)}
    return [
        fault(CHECK, f"{count} x {code}: {first[code].file}: {first[code].reason}", "'fedmentor data check' names every file")
        for code, count in sorted(kinds.items())
    ]


def left_out(summary: str) -> list[Finding]:
    """What of a PACS export is not used."""
    return [note(CHECK, f"not used: {summary}", EXPORT_CURE)] if summary else []


def unreadable(messages: tuple[str, ...]) -> list[Finding]:
    """Images of a PACS export whose header is good and whose pixels or mask are not; the node leaves them out."""
    if not messages:
        return []
    return [warning(CHECK, f"{len(messages)} images or masks cannot be read, the first: {messages[0]}", "export them again")]


def identifiers(found: Mapping[str, int]) -> list[Finding]:
    """Which attributes say who the patients are."""
    if not found:
        return []
    names = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
    return [note("identity", f"attributes that identify stay in the files and go nowhere: {names}")]


def burned_in(flags: Mapping[str, int]) -> list[Finding]:
    """Letters in the pictures themselves may be names; no reader takes them out."""
    findings = []
    if flags.get("YES"):
        cure = "have them blackened, or leave these images out"
        findings.append(warning("identity", f"{flags['YES']} images say that letters are burned into the picture", cure))
    if flags.get("not said"):
        findings.append(note("identity", f"{flags['not said']} images do not say whether letters are burned into the picture"))
    return findings
