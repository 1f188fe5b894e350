"""First step of a study: a dataset becomes a public pool and one folder a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fed_node.data.check import check_dataset
from fed_node.data.dataset import Dataset, open_dataset
from fed_node.data.export import write_subset
from fed_node.data.folder import check_replaceable
from fed_node.data.phantom import write_phantoms
from fedmentor.errors import ConfigError, DataError, EmptyDataset
from fedmentor.ids import SiteId
from study.partition import FederationSplit, SiteSplit, plan_sites
from study.plan import StudyPlan
from study.report.values import DataFacts, SiteFacts

PHANTOMS = "phantoms"
PROXY = "proxy"
SITES = "sites"
_SHOWN = 3


@dataclass(frozen=True)
class Prepared:
    """What the later steps work on.

    Attributes:
        facts: counts for the report.
        proxy: folder of the public pool.
        sites: folder of each site, with a column ``split`` in its table.
    """

    facts: DataFacts
    proxy: Path
    sites: Mapping[SiteId, Path]


@dataclass(frozen=True)
class Dealt:
    """A dataset whose patients have been dealt; nothing is written yet."""

    name: str
    dataset: Dataset
    split: FederationSplit


def prepare(plan: StudyPlan, source: Path | None, folder: Path) -> Prepared:
    """Check the data, deal the patients, write the folders.

    Args:
        plan: which partition.
        source: a dataset folder, or None to make phantoms.
        folder: where to write; an earlier study's folders there are replaced.

    Raises:
        see deal and write_split.
    """
    return settle(deal_phantoms(plan, folder) if source is None else deal(plan, source), folder)


def deal(plan: StudyPlan, source: Path) -> Dealt:
    """Check a dataset folder and deal its patients; writes nothing.

    Raises:
        DataError: names the first bad files.
        EmptyDataset: too few patients for the plan, or images without masks.
    """
    refuse_faults(source)
    dataset = open_dataset(source)
    split = plan_sites(dataset, plan.partition)
    _need_masks(dataset, split)
    return Dealt(source.resolve().name, dataset, split)


def deal_phantoms(plan: StudyPlan, folder: Path) -> Dealt:
    """Make phantoms in ``folder/phantoms`` of a study's own folder and deal them."""
    write_phantoms(folder / PHANTOMS, count=plan.phantoms, seed=plan.seed, replace=True)
    dataset = open_dataset(folder / PHANTOMS)
    return Dealt(PHANTOMS, dataset, plan_sites(dataset, plan.partition))


def settle(dealt: Dealt, folder: Path) -> Prepared:
    """Write the folders of pool and sites into a study's own folder."""
    facts = _facts(dealt.name, dealt.dataset, dealt.split)
    return Prepared(facts, folder / PROXY, write_split(dealt.dataset, dealt.split, folder, replace=True))


def write_split(dataset: Dataset, split: FederationSplit, folder: Path, *, replace: bool = False) -> dict[SiteId, Path]:
    """Write ``proxy/`` and ``sites/SITE/`` as dataset folders.

    An earlier split is replaced as a whole: a site that was left over from it would hold patients of the new ones.

    Args:
        dataset, split: what to write.
        folder: where to.
        replace: the folder is the caller's own; also replace dataset folders without this program's mark.

    Returns:
        The folder of each site.

    Raises:
        ConfigError: ``proxy/`` or ``sites/`` holds the images that are to be dealt, or something else than datasets of its own.
    """
    _check_split_replaceable(dataset, folder, replace=replace)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".split-", dir=folder) as scratch:
        fresh, old = Path(scratch, "new"), Path(scratch, "old")
        if split.proxy:
            write_subset(dataset, split.proxy, fresh / PROXY)
        for site, ids in split.sites.items():
            write_subset(dataset, (*ids.train, *ids.held_out), fresh / SITES / site, held_out=ids.held_out)
        old.mkdir()
        for name in (PROXY, SITES):
            if (folder / name).exists():
                (folder / name).rename(old / name)
        for part in fresh.iterdir():
            part.rename(folder / part.name)
    return {site: folder / SITES / site for site in split.sites}


def _check_split_replaceable(dataset: Dataset, folder: Path, *, replace: bool) -> None:
    places = {(folder / name).resolve() for name in (PROXY, SITES)}
    if any(place in sample.image.resolve().parents for sample in dataset for place in places):
        raise ConfigError(f"{folder} holds the images that are to be dealt", cure="choose another folder with --out")
    check_replaceable(folder / PROXY, replace=replace)
    if (folder / SITES).is_dir():
        for site in (folder / SITES).iterdir():
            check_replaceable(site, replace=replace)
    elif (folder / SITES).exists():
        raise ConfigError(f"{folder / SITES} is not a folder", cure="choose another folder with --out")


def refuse_faults(source: Path) -> None:
    """Refuse a dataset folder with bad files.

    Raises:
        DataError: names the first of them and how to see all.
    """
    report = check_dataset(source)
    if not report.good:
        shown = "; ".join(f"{finding.file}: {finding.reason}" for finding in report.findings[:_SHOWN])
        raise DataError(
            f"{source} has {len(report.findings)} faults: {shown}",
            cure=f"see all with `fedmentor data check {source}`, then mend or remove them",
        )


def _need_masks(dataset: Dataset, split: FederationSplit) -> None:
    """Every image of a site needs a human mask: it is trained on or scored."""
    masks = {sample.id: sample.mask for sample in dataset}
    for site, ids in split.sites.items():
        for image in (*ids.train, *ids.held_out):
            if masks[image] is None:
                raise EmptyDataset(f"image {image!r} of {site} has no mask", cure="add masks/ID.png, or remove the image")


def _facts(name: str, dataset: Dataset, split: FederationSplit) -> DataFacts:
    patients = {sample.id: sample.patient_id for sample in dataset}

    def site_facts(ids: SiteSplit) -> SiteFacts:
        return SiteFacts(
            train_images=len(ids.train),
            train_patients=len({patients[image] for image in ids.train}),
            held_out_images=len(ids.held_out),
            held_out_patients=len({patients[image] for image in ids.held_out}),
        )

    return DataFacts(
        source=name,
        fingerprint=dataset.fingerprint(),
        images=len(dataset),
        patients=dataset.patients,
        proxy_images=len(split.proxy),
        sites={site: site_facts(ids) for site, ids in split.sites.items()},
    )
