"""``fedmentor coordinator``: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli_defences import defence_options
from fedmentor.cli.enrol import enrol_coordinator, renew_coordinator

if TYPE_CHECKING:
    from coordinator.report import RoundReport, RunReport
    from fedmentor.supervisor import Supervisor

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def coordinator() -> None:
    """Run the rounds of a federation and publish its models."""


coordinator.add_command(enrol_coordinator)
coordinator.add_command(renew_coordinator)


@coordinator.command()
@click.option("--manifest", type=_FILE, help="The run's rules, from `coordinator manifest`.")
@click.option("--model", type=_FOLDER, help="Model 0: a folder with model.safetensors and model.json.")
@click.option("--state", type=_FOLDER, help="Folder for journal, spool, models and report; the same one resumes a run.")
@click.option("--certificates", type=_FOLDER, help="Folder with ca.pem and coordinator/.")
@click.option("--listen", metavar="HOST:PORT", help="Address for the sites; port 0 takes a free one.  [default: 127.0.0.1:8443]")
@click.option("--registrar", metavar="HOST:PORT", help="Where the registrar takes requests: renews the certificate in time.")
@click.option("--metrics", "metrics_port", type=int, metavar="PORT", help="Prometheus metrics.")
@click.option("--metrics-host", metavar="HOST", help="Address for the metrics.  [default: 127.0.0.1]")
@click.option("--dashboard", "dashboard_port", type=int, metavar="PORT", help="Page that shows the run; metrics are there, too.")
@click.option("--dashboard-host", metavar="HOST", help="Address for the dashboard.  [default: 127.0.0.1]")
@click.option("--dashboard-name", "dashboard_names", multiple=True, metavar="NAME", help="A name that browsers may ask by.")
@click.option("--ready-file", type=_FILE, help="Written with the bound address once sites can connect.")
@click.option("--log-file", type=_FILE, help="Where events go, instead of standard error.")
@click.option("--straggler-grace", "straggler_grace_seconds", type=float, metavar="SECONDS", help="Wait for absent sites.")
@click.option("--gather", "gather_seconds", type=float, metavar="SECONDS", help="Wait for a quorum of connected sites.")
@click.option("--linger", "linger_seconds", type=float, metavar="SECONDS", help="Keep telling sites that the run is over.")
@click.option("--stay", is_flag=True, default=None, help="Go on serving after the run's end, until stopped.")
@click.option("--config", type=_FILE, help="Settings in TOML; options win over it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
def run(config: Path | None, as_json: bool, **arguments: Any) -> int:  # noqa: FBT001 - click passes by name
    """Run a federation's rounds until the run is over.

    Stop it with Ctrl-C or SIGTERM, or kill it: the same command goes on where it stood.
    """
    from coordinator.app import run_coordinator
    from coordinator.config import settings_of
    from fedmentor.clock import SystemClock
    from fedmentor.errors import EXIT_INTERRUPTED, EXIT_OK, QuorumMissed
    from fedmentor.supervisor import supervisor

    settings = settings_of(config, {**arguments, "dashboard_names": arguments["dashboard_names"] or None})
    screen = _Supervised(_JsonScreen() if as_json else _TextScreen(), supervisor(SystemClock()))
    report = run_coordinator(settings, screen.show_round, screen.show_start, lambda over: screen.show_end(over, settings.state))
    if report is None:
        click.echo(f"stopped; the same command goes on with the run in {settings.state}", err=True)
        return EXIT_INTERRUPTED
    if report.outcome != "completed":
        raise QuorumMissed(report.reason, cure="see why sites did not deliver, then begin a new run with another --state folder")
    return EXIT_OK


@coordinator.command()
@click.option("--model", "folder", type=_FOLDER, required=True, help="Model 0: a folder with model.safetensors and model.json.")
@click.option("--site", "sites", multiple=True, required=True, metavar="ID", help="A site; give one option a site.")
@click.option("--rounds", type=int, required=True, help="Number of training rounds.")
@click.option("--out", type=_FILE, required=True, help="Manifest file to write.")
@click.option("--run", "name", default="run", show_default=True, help="Name of the run.")
@click.option("--quorum", type=int, default=3, show_default=True, help="Fewest sites behind a published model.")
@click.option("--local-epochs", type=int, help="Passes over a site's images a round.")
@click.option("--batch", "batch_images", type=int, help="Images a step.")
@click.option("--learning-rate", type=float, help="Step size of the local training.")
@click.option("--seed", type=int, help="Seed of the run.")
@click.option("--collect-seconds", type=float, help="How long a round waits for updates.")
@click.option("--evaluate-seconds", type=float, help="How long the run waits for scores of the last model.")
@click.option("--epsilon", type=float, help="Differential privacy: what the whole run may cost a patient.")
@click.option("--delta", type=float, help="With --epsilon: well under one over the number of patients.")
@click.option("--patients", type=int, help="With --epsilon: training patients of the smallest site.")
@click.option("--batch-patients", type=int, help="With --epsilon: patients drawn a step there, on average.")
@click.option(
    "--aggregation",
    "mode",
    type=click.Choice(["auto", "secagg", "secagg-grouped", "plain", "plain+robust"]),
    default="auto",
    show_default=True,
    help="secagg: the coordinator sees one sum; grouped: one a group, and their median counts. auto: secagg for 4 sites or more, "
    "unless something needs single updates.",
)
@click.option("--certificates", type=_FOLDER, help="For secagg: folder with the registrar's ca.pem, roster.json and roster.sig.")
@defence_options
def manifest(
    folder: Path, sites: tuple[str, ...], out: Path, name: str, mode: str, certificates: Path | None, **options: Any
) -> None:
    """Write the rules of a run, which every site pins at first contact."""
    from coordinator.defences import ROBUST_MODE, described, with_defences
    from coordinator.manifests import make_manifest, with_aggregation, with_privacy
    from fedmentor.identity.approval import approval_file
    from fedmentor.identity.roster import read_roster
    from fedmentor.models import write_atomically

    chosen = with_defences(with_privacy({key: value for key, value in options.items() if value is not None}), mode)
    mode = "plain" if mode == ROBUST_MODE else mode
    read_keys = None if certificates is None else lambda: read_roster(certificates).signing_keys
    made = make_manifest(folder, name, sites, with_aggregation(chosen, mode, sites, read_keys))
    write_atomically(out, made.to_bytes())
    approval_file(out).unlink(missing_ok=True)  # that of an earlier manifest
    click.echo(f"{out}: run {made.run}, {len(made.roster)} sites, {made.rounds} rounds, quorum {made.quorum}")
    click.echo(f"the coordinator sees {'sums of the updates only' if made.secure else 'the update of every single site'}")
    for line in described(made):
        click.echo(line)
    click.echo(f"manifest {made.digest}")


@coordinator.command()
@click.option("--state", "folder", type=_FOLDER, required=True, help="State folder of a coordinator, running or not.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
def status(folder: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show where a run stands, from its journal."""
    from coordinator.app import read_state
    from coordinator.report import round_line

    report = read_state(folder)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    standing = report.outcome or f"{report.phase}, round {report.round}, attempt {report.attempt}"
    click.echo(f"run {report.run}: {standing}{f' ({report.reason})' if report.reason else ''}")
    for entry in report.rounds:
        click.echo(round_line(entry, report.total_rounds))
    if report.set_aside:
        click.echo(f"set aside for the rest of the run: {', '.join(report.set_aside)}")
    if report.privacy is not None:
        spent = report.privacy
        click.echo(f"privacy: epsilon {spent.epsilon:.2f} at delta {spent.delta:g} for each {spent.unit} so far")


@coordinator.command()
@click.option("--state", "folder", type=_FOLDER, required=True, help="State folder of a coordinator.")
@click.option("--ready-file", type=_FILE, required=True, help="The running coordinator's --ready-file.")
def health(folder: Path, ready_file: Path) -> None:
    """Say whether a coordinator does its work: it takes connections of sites, and its run has not failed.

    For health checks of containers and monitoring. Exit code 4: the run failed; 5: nobody listens.
    """
    from coordinator.health import check_health

    click.echo(check_health(folder, ready_file))


class _TextScreen:
    def show_start(self, address: str, resumed: bool, dashboard: str | None) -> None:  # noqa: FBT001 - a callback
        click.echo(f"{'going on with the run' if resumed else 'run begun'}, listening on {address}")
        if dashboard is not None:
            click.echo(f"dashboard at {dashboard}")

    def show_round(self, entry: RoundReport, report: RunReport) -> None:
        from coordinator.report import round_line

        click.echo(round_line(entry, report.total_rounds))

    def show_end(self, report: RunReport, state: Path) -> None:
        click.echo(f"run {report.run} is finished: {report.outcome}; model {report.model} and report.json are in {state}")


class _JsonScreen:
    def show_start(self, address: str, resumed: bool, dashboard: str | None) -> None:  # noqa: FBT001 - a callback
        where = {} if dashboard is None else {"dashboard": dashboard}
        click.echo(json.dumps({"event": "listening", "address": address, "resumed": resumed, **where}))

    def show_round(self, entry: RoundReport, report: RunReport) -> None:
        click.echo(json.dumps({"event": "round", "run": report.run, **entry.model_dump(mode="json")}))

    def show_end(self, report: RunReport, state: Path) -> None:
        fields = {"run": report.run, "outcome": report.outcome, "reason": report.reason, "model": report.model}
        click.echo(json.dumps({"event": "finished", **fields, "state": str(state)}))


class _Supervised:
    """A screen whose lines systemd is told as well; ready once sites can connect."""

    def __init__(self, screen: _TextScreen | _JsonScreen, service: Supervisor) -> None:
        self._screen = screen
        self._service = service

    def show_start(self, address: str, resumed: bool, dashboard: str | None) -> None:  # noqa: FBT001 - a callback
        self._service.status(f"listening on {address}", ready=True)
        self._screen.show_start(address, resumed, dashboard)

    def show_round(self, entry: RoundReport, report: RunReport) -> None:
        from coordinator.report import round_line

        self._service.status(round_line(entry, report.total_rounds))
        self._screen.show_round(entry, report)

    def show_end(self, report: RunReport, state: Path) -> None:
        self._service.status(f"run {report.run} is finished: {report.outcome}")
        self._screen.show_end(report, state)
