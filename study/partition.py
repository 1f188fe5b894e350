"""Who gets which patients: pure functions from rows to ids. A patient is never split, and a seed fixes everything.

Rows are anything with an id, a patient and metadata; fed_node.data.dataset.Sample is one. The order in which rows come does not
matter. Sizes are counted in images and met as closely as whole patients allow: where patients are dealt at random, no site of two
or more patients is over its share by a patient.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedmentor.errors import ConfigError, EmptyDataset, MissingMetadata
from fedmentor.ids import MAX_SEED, SiteId

IID = "iid"
AGE = "age"
QUANTITY = "quantity"

Ids = tuple[str, ...]
Sites = dict[SiteId, Ids]


class Row(Protocol):
    """One image, as far as partitions care."""

    @property
    def id(self) -> str:
        """Unique name of the image."""
        ...

    @property
    def patient_id(self) -> str:
        """Who it shows."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Everything else that is known, by column; unknown cells are empty."""
        ...


class PartitionPlan(BaseModel):
    """How a dataset becomes a federation.

    Attributes:
        by: ``iid``, ``age``, ``quantity``, or the name of a metadata column such as ``location`` or ``view``.
        sites: number of sites.
        proxy: share of the images that goes to the public pool from which the student is distilled.
        held_out: share of each site's images that is kept for scoring.
        seed: fixes every draw.
        concentration: Dirichlet parameter of ``quantity``; small values give very unequal sites.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = IID
    sites: int = Field(4, ge=1, le=1000)
    proxy: float = Field(0.3, ge=0, lt=1)
    held_out: float = Field(0.25, ge=0, lt=1)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    concentration: float = Field(1.0, gt=0)


@dataclass(frozen=True)
class SiteSplit:
    """One site's images, sorted by id."""

    train: Ids
    held_out: Ids


@dataclass(frozen=True)
class FederationSplit:
    """The public pool and every site's images; together they are the dataset, and no patient is in two places."""

    proxy: Ids
    sites: Mapping[SiteId, SiteSplit]


@dataclass(frozen=True)
class _Patient:
    """A patient's rows, the unit that is dealt out."""

    rows: tuple[Row, ...]

    @property
    def size(self) -> int:
        return len(self.rows)


def plan_sites(rows: Sequence[Row], plan: PartitionPlan) -> FederationSplit:
    """Take the proxy pool, part the rest over the sites, hold out patients within each site.

    Each of the three steps has a random stream of its own, so that another partition leaves the proxy pool as it is.

    Raises:
        MissingMetadata: the plan needs a column that the rows lack.
        EmptyDataset: not enough patients.
        ConfigError: an id occurs twice.
    """
    proxy, rest = take_proxy(rows, plan.proxy, np.random.default_rng([plan.seed, 0]))
    by_id = {row.id: row for row in rows}
    sites = partition([by_id[key] for key in rest], plan, np.random.default_rng([plan.seed, 1]))
    splits = {
        site: SiteSplit(*split_held_out([by_id[key] for key in ids], plan.held_out, np.random.default_rng([plan.seed, 2, index])))
        for index, (site, ids) in enumerate(sites.items())
    }
    return FederationSplit(proxy, splits)


def partition(rows: Sequence[Row], plan: PartitionPlan, rng: np.random.Generator) -> Sites:
    """Part rows over ``plan.sites`` sites in the way that ``plan.by`` names; proxy and held-out shares are not looked at.

    Raises:
        MissingMetadata: see the function for ``plan.by``.
        EmptyDataset: fewer patients than sites.
    """
    names = site_names(plan.sites)
    if plan.by == IID:
        return iid(rows, names, rng)
    if plan.by == AGE:
        return age_skew(rows, names, rng)
    if plan.by == QUANTITY:
        return quantity_skew(rows, names, rng, plan.concentration)
    return by_column(rows, plan.by, names, rng)


def site_names(count: int) -> tuple[SiteId, ...]:
    """``site-1`` … ``site-N``, zero-padded so that they sort in this order."""
    digits = len(str(count))
    return tuple(SiteId(f"site-{number:0{digits}d}") for number in range(1, count + 1))


def iid(rows: Sequence[Row], sites: Sequence[SiteId], rng: np.random.Generator) -> Sites:
    """Patients at random, sites of equal size."""
    return by_shares(rows, dict.fromkeys(sites, 1.0), rng)


def quantity_skew(rows: Sequence[Row], sites: Sequence[SiteId], rng: np.random.Generator, concentration: float = 1.0) -> Sites:
    """Patients at random, sizes drawn from a symmetric Dirichlet distribution (Li et al., arXiv 2102.02079, section IV-C)."""
    shares = rng.dirichlet(np.full(len(sites), concentration))
    return by_shares(rows, {site: float(share) for site, share in zip(sites, shares, strict=True)}, rng)


def by_shares(rows: Sequence[Row], shares: Mapping[SiteId, float], rng: np.random.Generator) -> Sites:
    """Patients at random; each goes to the site that lacks most of its share.

    A site whose share is less than a patient still gets one.

    Raises:
        EmptyDataset: fewer patients than sites.
    """
    patients = _shuffled(_patients(rows), rng)
    _need_patients(patients, len(shares))
    bins = _deal(patients, list(shares.values()))
    return _named(list(shares), _without_empty(bins))


def age_skew(rows: Sequence[Row], sites: Sequence[SiteId], rng: np.random.Generator) -> Sites:
    """The youngest patients at the first site, the oldest at the last, sites of equal size.

    A patient's age is the mean over the images that tell one. Patients whose age nobody wrote down are spread evenly,
    so that their number does not blur the skew at one site only.

    Raises:
        MissingMetadata: there is no column ``age``, or fewer patients with an age than sites.
        EmptyDataset: fewer patients than sites.
    """
    _need_column(rows, AGE)
    patients = _shuffled(_patients(rows), rng)
    _need_patients(patients, len(sites))
    aged = sorted(((age, p) for p in patients if (age := _age(p)) is not None), key=lambda pair: pair[0])
    if len(aged) < len(sites):
        raise MissingMetadata(
            f"column 'age' is filled for {len(aged)} patients, {len(sites)} sites need one each", cure="part by another column"
        )
    bins = _cut([patient for _, patient in aged], len(sites))
    unaged = [patient for patient in patients if _age(patient) is None]
    return _named(sites, _deal(unaged, [1.0] * len(sites), bins))


def by_column(rows: Sequence[Row], column: str, sites: Sequence[SiteId], rng: np.random.Generator) -> Sites:
    """Patients with the same value of ``column`` together: hospitals by ``location``, projections by ``view``.

    A patient belongs to the value that most of the images have; an empty cell is a value like any other. With more values than
    sites, the largest values come first and each joins the smallest site. With fewer, the largest value is shared by several.

    Raises:
        MissingMetadata: there is no such column; names those that exist.
        EmptyDataset: fewer patients than sites.
    """
    _need_column(rows, column)
    patients = _shuffled(_patients(rows), rng)
    _need_patients(patients, len(sites))
    groups: dict[str, list[_Patient]] = defaultdict(list)
    for patient in patients:
        groups[_commonest(patient, column)].append(patient)
    pieces = _split_largest([groups[value] for value in sorted(groups)], len(sites))
    bins: list[list[_Patient]] = [[] for _ in sites]
    for piece in sorted(pieces, key=_images, reverse=True):
        min(bins, key=_images).extend(piece)
    return _named(sites, bins)


def take_proxy(rows: Sequence[Row], fraction: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Part off ``fraction`` of the images as the public pool.

    Returns:
        (pool, rest), each sorted.

    Raises:
        EmptyDataset: not two patients to part.
    """
    rest, proxy = split_held_out(rows, fraction, rng)
    return proxy, rest


def split_held_out(rows: Sequence[Row], fraction: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Part ``fraction`` of the images off by whole patients; zero holds nothing out.

    Returns:
        (kept, parted off), each sorted; both are non-empty unless ``fraction`` is zero.

    Raises:
        EmptyDataset: no rows, or not two patients to part.
    """
    if fraction == 0:
        _need_patients(_patients(rows), 1)
        return tuple(sorted(row.id for row in rows)), ()
    kept, off = SiteId("kept"), SiteId("off")
    parts = by_shares(rows, {kept: 1 - fraction, off: fraction}, rng)
    return parts[kept], parts[off]


def _patients(rows: Sequence[Row]) -> list[_Patient]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        groups[row.patient_id].append(row)
    doubled = [key for key, times in Counter(row.id for row in rows).items() if times > 1]
    if doubled:
        raise ConfigError(f"image id {doubled[0]!r} occurs twice")
    return [_Patient(tuple(groups[key])) for key in sorted(groups)]


def _shuffled(patients: list[_Patient], rng: np.random.Generator) -> list[_Patient]:
    return [patients[index] for index in rng.permutation(len(patients))]


def _deal(patients: Sequence[_Patient], shares: Sequence[float], start: Sequence[list[_Patient]] = ()) -> list[list[_Patient]]:
    """Each patient to the bin that lacks most of its share of all images, those already in the bins included."""
    bins = [list(bin_) for bin_ in start] or [[] for _ in shares]
    total = _images(patients) + sum(map(_images, bins))
    lacking = [total * share / sum(shares) - _images(bin_) for share, bin_ in zip(shares, bins, strict=True)]
    for patient in patients:
        neediest = int(np.argmax(lacking))
        bins[neediest].append(patient)
        lacking[neediest] -= patient.size
    return bins


def _without_empty(bins: list[list[_Patient]]) -> list[list[_Patient]]:
    """Give every empty bin the smallest patient of the bin with the most patients."""
    for bin_ in bins:
        if not bin_:
            donor = max(bins, key=len)
            smallest = min(donor, key=lambda patient: patient.size)
            donor.remove(smallest)
            bin_.append(smallest)
    return bins


def _cut(patients: Sequence[_Patient], count: int) -> list[list[_Patient]]:
    """Consecutive runs of about equal numbers of images, none empty."""
    bins: list[list[_Patient]] = [[] for _ in range(count)]
    total, before, current = _images(patients), 0, 0
    for index, patient in enumerate(patients):
        middle = before + patient.size / 2
        full = bool(bins[current]) and middle > total * (current + 1) / count
        scarce = bool(bins[current]) and len(patients) - index <= count - current - 1
        if (full or scarce) and current < count - 1:
            current += 1
        bins[current].append(patient)
        before += patient.size
    return bins


def _split_largest(groups: list[list[_Patient]], count: int) -> list[list[_Patient]]:
    """Halve the largest group that has two patients until there are ``count`` groups."""
    pieces = list(groups)
    while len(pieces) < count:
        largest = max((piece for piece in pieces if len(piece) > 1), key=_images)
        pieces.remove(largest)
        pieces += _without_empty(_deal(largest, [1.0, 1.0]))
    return pieces


def _images(patients: Sequence[_Patient]) -> int:
    return sum(patient.size for patient in patients)


def _named(sites: Sequence[SiteId], bins: Sequence[Sequence[_Patient]]) -> Sites:
    return {site: tuple(sorted(row.id for patient in bin_ for row in patient.rows)) for site, bin_ in zip(sites, bins, strict=True)}


def _age(patient: _Patient) -> float | None:
    ages = [age for row in patient.rows if (age := _number(row.metadata.get(AGE, ""))) is not None]
    return sum(ages) / len(ages) if ages else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _commonest(patient: _Patient, column: str) -> str:
    counts = Counter(row.metadata.get(column, "") for row in patient.rows)
    return min(counts, key=lambda value: (-counts[value], value))


def _need_column(rows: Sequence[Row], column: str) -> None:
    existing = sorted({name for row in rows for name in row.metadata})
    if column not in existing:
        raise MissingMetadata(
            f"there is no metadata column {column!r} to part the images by", cure=f"use one of: {', '.join(existing) or 'none'}"
        )


def _need_patients(patients: Sequence[_Patient], count: int) -> None:
    if len(patients) < count:
        raise EmptyDataset(
            f"{len(patients)} patients cannot be parted into {count} non-empty groups", cure="use fewer sites or more patients"
        )
