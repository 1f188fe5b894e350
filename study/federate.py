"""Third step of a study: one federated run as real processes, a coordinator and a node a site, over mutual TLS on loopback."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from coordinator.manifests import make_manifest, with_aggregation
from coordinator.report import REPORT_FILE, RoundReport, RunReport
from fedmentor.errors import PeerUnreachable
from fedmentor.federation import RunManifest
from fedmentor.identity.authority import throwaway
from fedmentor.identity.roster import read_roster
from fedmentor.ids import SiteId
from fedmentor.models import write_atomically
from study.plan import Initialisation, StudyPlan
from study.processes import Child, Children, children, complete_lines, wait_for_file
from study.report.values import RoundFacts, RunFacts, SiteScores

HOST = "localhost"
START_SECONDS = 120.0
"""How long the coordinator may take to listen on a busy machine."""

GRACE_SECONDS = 60.0
"""How long a round waits for a site that is gone. Longer than a node takes to start, so that every site is in the first round."""

NODE_GIVES_UP_SECONDS = 60.0
COORDINATOR_LINGERS_SECONDS = 10.0

_POLL_S = 0.2

Told = Callable[[RoundReport], None]


def federate(
    plan: StudyPlan, init: Initialisation, model: Path, sites: Mapping[SiteId, Path], folder: Path, told: Told
) -> RunFacts:
    """Run all rounds from one initial model.

    Args:
        plan: rounds, training, quorum.
        init: name of the initialisation; also the run's.
        model: folder of the initial model.
        sites: dataset folder of each site.
        folder: where state, certificates and logs go; must not hold an earlier run.
        told: called once for every global model, when its scores are in.

    Raises:
        ChildFailed: a process ended with an error; names it and its log. Everything else is stopped.
        PeerUnreachable: the coordinator did not come up.
    """
    folder.mkdir(parents=True)
    certificates = folder / "certificates"
    throwaway(certificates, "demo", sorted(sites), [HOST])
    manifest = folder / "manifest.json"
    write_atomically(manifest, _manifest(plan, init, model, sites, certificates).to_bytes())
    with children() as group:
        coordinator, address = _start_coordinator(group, folder, manifest, model, certificates)
        nodes = [_start_node(group, folder, site, data, certificates, address) for site, data in sorted(sites.items())]
        _follow(coordinator, nodes, plan, told)
    report = RunReport.model_validate_json((folder / "coordinator" / REPORT_FILE).read_bytes())
    return run_facts(plan, init, report)


def run_facts(plan: StudyPlan, init: Initialisation, report: RunReport) -> RunFacts:
    """A coordinator's report in the words of a study: what a model cost stands beside the model, not beside its parent.

    Raises:
        PeerUnreachable: a model was scored by no site.
    """
    makers = (None, *report.rounds)
    return RunFacts(
        init=init,
        partition=plan.partition.by,
        strategy="fedavg",
        seed=plan.seed,
        rounds=tuple(_round_facts(entry, maker) for entry, maker in zip(report.rounds, makers, strict=False)),
        final_model_digest=report.model,
    )


def _manifest(plan: StudyPlan, init: Initialisation, model: Path, sites: Mapping[SiteId, Path], certificates: Path) -> RunManifest:
    options = {"rounds": plan.rounds, "quorum": min(plan.quorum, len(sites)), **plan.training.model_dump()}
    secured = with_aggregation(options, "auto", sites, lambda: read_roster(certificates).signing_keys)
    return make_manifest(model, init, sorted(sites), secured)


def _start_coordinator(group: Children, folder: Path, manifest: Path, model: Path, certificates: Path) -> tuple[Child, str]:
    ready = folder / "coordinator.ready"
    arguments = {
        "--manifest": manifest,
        "--model": model,
        "--state": folder / "coordinator",
        "--certificates": certificates,
        "--listen": f"{HOST}:0",
        "--ready-file": ready,
        "--straggler-grace": GRACE_SECONDS,
        "--linger": COORDINATOR_LINGERS_SECONDS,
    }
    child = group.start("coordinator", ["coordinator", "run", "--json", *_flat(arguments)], folder / "logs")
    port = wait_for_file(ready, child, START_SECONDS).rpartition(":")[2]
    return child, f"{HOST}:{port}"


def _start_node(group: Children, folder: Path, site: SiteId, data: Path, certificates: Path, address: str) -> Child:
    arguments = {
        "--site": site,
        "--coordinator": address,
        "--certificates": certificates,
        "--data": data,
        "--state": folder / "sites" / site,
        "--threads": 1,
        "--give-up-seconds": NODE_GIVES_UP_SECONDS,
    }
    return group.start(site, ["node", "run", "--json", *_flat(arguments)], folder / "logs")


def _follow(coordinator: Child, nodes: list[Child], plan: StudyPlan, told: Told) -> None:
    """Pass on every round until the coordinator has ended; a failed node is an error once fewer than the quorum are left."""
    with coordinator.out.open() as output:
        while True:
            ended = coordinator.process.poll() is not None
            for line in complete_lines(output):
                entry = _round_of(line)
                if entry is not None:
                    told(entry)
            if ended:
                break
            failed = [node for node in nodes if node.failed()]
            if len(nodes) - len(failed) < min(plan.quorum, len(nodes)):
                raise failed[0].error()
            time.sleep(_POLL_S)
    if coordinator.failed():
        raise next((node for node in nodes if node.failed()), coordinator).error()
    # The run is on disk. A node that has not heard so yet is stopped with the block.
    for node in nodes:
        with suppress(subprocess.TimeoutExpired):
            node.process.wait(timeout=COORDINATOR_LINGERS_SECONDS)


def _round_of(line: str) -> RoundReport | None:
    message = json.loads(line)
    event = message.pop("event")
    return RoundReport.model_validate({key: value for key, value in message.items() if key != "run"}) if event == "round" else None


def _round_facts(entry: RoundReport, maker: RoundReport | None) -> RoundFacts:
    """Scores of one global model with the cost of the round that made it; model 0 cost nothing."""
    if entry.dice is None or entry.iou is None or entry.worst_site is None or entry.worst_dice is None:
        raise PeerUnreachable(f"no site scored the model of round {entry.round}", cure="read the logs of the nodes")
    up, down = (maker.bytes_up, maker.bytes_down) if maker else ({}, {})
    return RoundFacts(
        round=entry.round,
        model_digest=entry.model,
        dice=entry.dice,
        iou=entry.iou,
        hd95=entry.hd95,
        hd95_undefined=entry.hd95_undefined,
        worst_site=entry.worst_site,
        worst_dice=entry.worst_dice,
        sites={
            site: SiteScores(**scores.model_dump(), bytes_up=up.get(site, 0), bytes_down=down.get(site, 0))
            for site, scores in entry.sites.items()
        },
        bytes_up=sum(up.values()),
        bytes_down=sum(down.values()),
        seconds=(maker.seconds or 0.0) if maker else 0.0,
    )


def _flat(arguments: Mapping[str, object]) -> list[str]:
    return [str(part) for pair in arguments.items() for part in pair]
