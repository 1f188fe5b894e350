"""Looking at a whole site: gathers facts and has them judged. Makes no file, and asks others for their name and time alone."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from fed_node.config import NodeConfig
from fed_node.data.check import check_dataset, unreadable_samples
from fed_node.data.dataset import SPLIT_COLUMN, Dataset, open_dataset
from fed_node.data.limits import is_dicom
from fed_node.data.site import is_export
from fed_node.doctor import machine, memory, network, site_data
from fed_node.doctor.finding import Finding, fault_of, good
from fed_node.doctor.identity import identity_findings, lifetime_of
from fed_node.doctor.memory import OutboxFacts
from fed_node.doctor.probe import Journey, fault_on_the_way, go
from fed_node.ledger.sqlite import KEY_BYTES, KEY_FILE
from fed_node.link import GrpcLink
from fedmentor.audit.keys import has_roster
from fedmentor.clock import Clock
from fedmentor.errors import DataError, FedMentorError
from fedmentor.identity.credentials import load_certificate, peer_of_certificate, site_credentials
from fedmentor.identity.names import coordinator_host
from fedmentor.identity.roster import read_roster
from fedmentor.privacy.accounting import TightEpsilon
from fedmentor.teacher.client import TorchServeTeacher
from fedmentor.teacher.endpoint import read_endpoint
from fedmentor.wire.channel import Credentials

Item = TypeVar("Item")


class Progress(Protocol):
    """Shows how far a piece of work is."""

    def __call__(self, label: str, items: Sequence[Item], /) -> Iterable[Item]:
        """Give the items one by one."""
        ...


@dataclass(frozen=True)
class Scope:
    """How far an examination goes.

    Attributes:
        pixels: read every image and mask.
        network: go to the coordinator.
        teacher: run folder of a teacher that should answer; None: none.
    """

    pixels: bool = True
    network: bool = True
    teacher: Path | None = None


def examine(config: NodeConfig, clock: Clock, scope: Scope, progress: Progress) -> Iterator[Finding]:
    """Look at everything that a node needs.

    Args:
        config: the node's settings.
        clock: of this machine; reading images takes long, so it is read when it is needed.
        scope: what to leave out.
        progress: wraps sequences of files that are worked through.

    Yields:
        Findings, machine first, network last; each is there as soon as it is known.
    """
    facts = machine.machine_facts()
    yield machine.libraries(facts.missing)
    yield machine.threads(config.threads, facts.cores)
    yield machine.memory(facts.memory_bytes)
    yield machine.gpu(facts.gpu)
    yield from machine.folder("state", machine.folder_facts(config.state))
    found, outbox = memory.outbox_findings(config.state)
    yield from found
    yield from memory.ledger_findings(config.state, config.ledger_anchor, config.max_epsilon, _tight)
    yield from identity_findings(config.certificates, config.site_id, clock.now())
    yield from data_findings(config, scope, progress)
    yield network.proxy(config.proxy, os.environ)
    yield from network_findings(config, clock, outbox, scope)
    if scope.teacher is not None:
        yield teacher_finding(scope.teacher)


def teacher_finding(run_folder: Path) -> Finding:
    """Ask the teacher who it is."""
    try:
        with TorchServeTeacher(read_endpoint(run_folder)) as teacher:
            card = teacher.describe()
    except FedMentorError as error:
        return fault_of("teacher", error)
    return good("teacher", f"{card.architecture} {card.digest[:12]} answers")


def data_findings(config: NodeConfig, scope: Scope, progress: Progress) -> list[Finding]:
    """Look at the site's images."""
    try:
        if is_export(config.data):
            return _export_findings(config, scope, progress)
        return _dataset_findings(config.data, scope, progress)
    except DataError as error:
        return [fault_of(site_data.CHECK, error)]
    except OSError as error:
        return [site_data.closed(str(error.filename or config.data), error.strerror or type(error).__name__)]


def network_findings(config: NodeConfig, clock: Clock, outbox: OutboxFacts | None, scope: Scope) -> list[Finding]:
    """Go to the coordinator, and hold the clock against everything that has a date."""
    try:
        credentials = site_credentials(config.certificates, config.site_id, clock.now())
        own = load_certificate(credentials.certificate, "the certificate")
        server = coordinator_host(peer_of_certificate(credentials.certificate).federation)
        past = [("this site's certificate", lifetime_of(own).begin)]
        if has_roster(config.certificates):
            past.append(("the roster", datetime.fromisoformat(read_roster(config.certificates, None).issued_utc)))
    except FedMentorError:
        return []  # said already; without an identity nobody can be met
    if outbox is not None and outbox.last_receipt is not None:
        past.append(("the last receipt", outbox.last_receipt))
    if not scope.network:
        return [network.clock(clock.now(), past)]
    way = go(Journey(config.coordinator, config.proxy, config.certificates, config.site_id, server))
    if way.answer is not None and not way.answer.refusal:
        past.append(("the coordinator's certificate", way.answer.life.begin))
    witnesses = network.Witnesses(_coordinators_time(config, credentials) if way.welcome else None, way.date)
    now = clock.now()
    route = network.way(way, config.coordinator, config.proxy)
    findings = [*route, *network.tls(way, server, now), network.clock(now, past, witnesses)]
    if config.registrar is not None:
        findings.append(network.registrar(config.registrar, fault_on_the_way(config.registrar, config.proxy)))
    return findings


def _coordinators_time(config: NodeConfig, credentials: Credentials) -> datetime | None:
    """What the coordinator's clock says; None where it does not tell: an older one, or one whose run this site has no part in."""
    with closing(GrpcLink(config.coordinator, lambda: credentials, config.proxy)) as link, suppress(FedMentorError):
        return link.tell_time()
    return None


def _dataset_findings(folder: Path, scope: Scope, progress: Progress) -> list[Finding]:
    findings: list[Finding] = []
    if scope.pixels:
        report = check_dataset(folder, required=[SPLIT_COLUMN], progress=lambda ids: progress("images", ids))
        findings += [site_data.counts(report.images, report.masks, report.patients), *site_data.dataset_faults(report)]
        if not report.good:
            return findings
    dataset = open_dataset(folder)
    dicom = [sample.image for sample in dataset if is_dicom(sample.image)]
    return [*findings, _split_finding(dataset), *site_data.identifiers(_identifiers(dicom))]


def _export_findings(config: NodeConfig, scope: Scope, progress: Progress) -> list[Finding]:
    from fed_node.data.identifiers import Pseudonyms  # noqa: PLC0415 - pydicom is slow to load
    from fed_node.data.pacs_export import export_dataset, survey_export  # noqa: PLC0415

    key = _site_key(config.state)
    # A key of the moment is enough to tell patients apart today.
    pseudonyms = Pseudonyms(key or secrets.token_bytes(KEY_BYTES))
    export = survey_export(config.data, pseudonyms, config.dicom.rules, lambda files: progress("headers", files))
    dataset = export_dataset(config.data, export, pseudonyms, config.dicom.held_out)
    broken = unreadable_samples(dataset, lambda samples: progress("images", samples)) if scope.pixels else ()
    return [
        site_data.counts(len(export.pictures), export.masks, export.patients),
        *site_data.left_out(export.left_out),
        *site_data.unreadable(broken),
        _split_finding(dataset) if key else site_data.undecided(len({one.patient for one in export.pictures if one.mask})),
        *site_data.identifiers(export.identifying),
        *site_data.burned_in(export.burned_in),
    ]


def _split_finding(dataset: Dataset) -> Finding:
    return site_data.split(Counter(sample.metadata.get(SPLIT_COLUMN, "") for sample in dataset if sample.mask is not None))


def _identifiers(paths: Sequence[Path]) -> Counter[str]:
    found: Counter[str] = Counter()
    if paths:
        from fed_node.data.dicom_header import read_header  # noqa: PLC0415 - pydicom is slow to load
        from fed_node.data.identifiers import identifying  # noqa: PLC0415
        from fedmentor.teacher.dicom_silence import silent  # noqa: PLC0415 - pydicom is slow to load

        for path in paths:
            with silent():
                found.update(identifying(read_header(path)))
    return found


def _site_key(state: Path) -> bytes | None:
    """The site's key, if it has one already."""
    try:
        return (state / KEY_FILE).read_bytes()
    except OSError:
        return None


def _tight() -> TightEpsilon:
    from fed_node.dp import prv_epsilon  # noqa: PLC0415 - takes seconds; few sites have a ledger

    return prv_epsilon
