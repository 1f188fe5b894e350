"""First step of a study: a dataset becomes a public pool and one folder a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fed_node.data.check import check_dataset
from fed_node.data.dataset import Dataset, open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fedmentor.errors import DataError, EmptyDataset
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


def prepare(plan: StudyPlan, source: Path | None, folder: Path) -> Prepared:
    """Check the data, deal the patients, write the folders.

    Args:
        plan: which partition.
        source: a dataset folder, or None to make phantoms.
        folder: where to write; an earlier study's folders there are replaced.

    Raises:
        DataError: names the first bad files; nothing is written then.
        EmptyDataset: too few patients for the plan, or images without masks.
    """
    if source is None:
        source = folder / PHANTOMS
        write_phantoms(source, count=plan.phantoms, seed=plan.seed)
        name = PHANTOMS
    else:
        name = source.resolve().name
        refuse_faults(source)
    dataset = open_dataset(source)
    split = plan_sites(dataset, plan.partition)
    _need_masks(dataset, split)
    return Prepared(_facts(name, dataset, split), folder / PROXY, write_split(dataset, split, folder))


def write_split(dataset: Dataset, split: FederationSplit, folder: Path) -> dict[SiteId, Path]:
    """Write ``proxy/`` and ``sites/SITE/`` as dataset folders; earlier ones are replaced.

    Returns:
        The folder of each site.
    """
    if split.proxy:
        write_subset(dataset, split.proxy, folder / PROXY)
    sites = {site: folder / SITES / site for site in split.sites}
    for site, ids in split.sites.items():
        write_subset(dataset, (*ids.train, *ids.held_out), sites[site], held_out=ids.held_out)
    return sites


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
