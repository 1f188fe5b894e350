"""The federation of deploy/compose.yaml without containers: the same commands, as processes of this machine."""

from __future__ import annotations

import json
from pathlib import Path

from containers_engine import EPOCHS, PHANTOMS, ROUNDS, SEED, SITES, THREADS

from study.processes import Child, children, wait_for_file
from study.steps import DATASET
from teacher_service.server import ServerConfig, serving

PATIENCE_S = 900.0
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run_on_host(folder: Path) -> dict:
    """Run everything in ``folder``; gives the coordinator's report."""
    with children() as group:

        def start(name: str, *arguments: object) -> Child:
            return group.start(name, [str(argument) for argument in arguments], folder / "logs", ENVIRONMENT)

        def finish(child: Child) -> None:
            assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()

        (folder / "scratch").mkdir(parents=True)
        sites = [part for site in SITES for part in ("--site", site)]
        parts = folder / "parts"
        finish(start("registrar", "study", "step", "registrar", "--parts", parts, "--host", "localhost", *sites))
        dealing = ["--scratch", folder / "scratch", "--phantoms", PHANTOMS, "--seed", SEED]
        finish(start("data", "study", "step", "data", "--parts", folder / "data", *dealing))

        with serving(ServerConfig(folder / "teacher", threads=THREADS)):
            arguments = ["--out", folder / "model", "--prompt", "central", "--ignore-masks", "--epochs", EPOCHS, "--seed", SEED]
            arguments += ["--threads", THREADS, "--state", folder / "teacher", "--cache", folder / "soft-labels"]
            finish(start("distil", "distil", folder / "data" / "proxy" / DATASET, *arguments))

        rules = ["--run", "demo", "--quorum", 3, "--rounds", ROUNDS, "--seed", SEED, "--aggregation", "plain", *sites]
        manifest = folder / "manifest.json"
        finish(start("plan", "coordinator", "manifest", "--model", folder / "model", "--out", manifest, *rules))

        ready = folder / "ready"
        arguments = ["--certificates", parts / "coordinator", "--manifest", manifest, "--model", folder / "model"]
        arguments += ["--state", folder / "state", "--ready-file", ready, "--listen", "localhost:0", "--straggler-grace", 120]
        coordinator = start("coordinator", "coordinator", "run", *arguments)
        address = wait_for_file(ready, coordinator, PATIENCE_S)
        for site in SITES:
            arguments = ["--site", site, "--coordinator", address, "--certificates", parts / site]
            start(site, "node", "run", *arguments, "--data", folder / "data" / site / DATASET, "--state", folder / "states" / site)
        finish(coordinator)
    return json.loads((folder / "state" / "report.json").read_bytes())
