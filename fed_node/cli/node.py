"""``fedmentor node``: a site's part in a federation."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fed_node.cli.check import check
from fed_node.cli.checkpoint import checkpoint
from fed_node.cli.ledger import ledger
from fedmentor.cli.enrol import enrol_site, renew_site
from fedmentor.cli.kit import unit, unpack
from fedmentor.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_POLICY
from fedmentor.signals import ending_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fed_node.events import Observer, SessionEvent

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def node() -> None:
    """Take part in a federation with the data of this site."""


node.add_command(check)
node.add_command(ledger)
node.add_command(checkpoint)
node.add_command(unpack)
node.add_command(unit)
node.add_command(enrol_site)
node.add_command(renew_site)


@node.command()
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file; options below win over it."
)
@click.option("--site", help="Name of this site.")
@click.option("--coordinator", metavar="HOST:PORT", help="Where the coordinator listens.")
@click.option("--proxy", metavar="HOST:PORT", help="HTTP proxy to ask for the connection.  [default: none]")
@click.option("--registrar", metavar="HOST:PORT", help="Where the registrar renews certificates.  [default: none]")
@click.option("--certificates", type=FOLDER, help="Folder with ca.pem and sites/SITE/.")
@click.option("--data", type=FOLDER, help="Dataset folder of this site, with a column split, or a PACS export.")
@click.option("--state", type=FOLDER, help="The node's own folder; keep it between starts.")
@click.option("--threads", type=int, help="CPU threads for training.  [default: 1]")
@click.option("--give-up-seconds", type=float, help="How long the coordinator may be away.  [default: 600]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output.")
def run(config: Path | None, *, as_json: bool, **arguments: Any) -> int:
    """Train and score until the run is over; one line a round.

    Connects outwards only. What this site finished and the coordinator did not acknowledge stays in the state folder and is sent
    first at the next start.

    \b
    Exit codes: 0 the run is complete; 2 usage; 3 settings, certificate or data cannot be used;
    4 refused by policy, here or by the coordinator, or the run failed; 5 coordinator unreachable;
    70 disk or program broke; 130 stopped by a signal.
    """
    # Heavy imports here: --help loads no grpc and no numpy.
    from fed_node.app import run_node
    from fed_node.config import node_config
    from fed_node.supervisor import told
    from fedmentor.clock import SystemClock
    from fedmentor.federation import Outcome
    from fedmentor.supervisor import STOPPING, supervisor

    settings = node_config(config, arguments)
    service = supervisor(SystemClock())
    tell, show = told(service), _observer(settings.site, settings.state, as_json=as_json)
    stop, busy = threading.Event(), threading.Event()

    def observe(event: SessionEvent) -> None:
        busy.set()
        tell(event)
        show(event)

    with _signals(stop, busy, lambda: service.tell(STOPPING)):
        finished = run_node(settings, observe, stop, service.alive)
    if finished is None:
        click.echo("stopped before the run was over; what was not acknowledged is kept in the state folder", err=True)
        return EXIT_INTERRUPTED
    if finished.outcome is Outcome.COMPLETED:
        return EXIT_OK
    click.echo(f"error: the run failed: {finished.reason}", err=True)
    return EXIT_POLICY


@node.command()
@click.option("--state", type=FOLDER, required=True, help="The node's own folder.")
def health(state: Path) -> None:
    """Say whether this site's node does its work: it is in touch with its coordinator, or its run is complete.

    For health checks of containers and monitoring. Exit code 4: the run failed; 5: the coordinator is away.
    """
    from fed_node.health import check_health

    click.echo(check_health(state))


def _observer(site: str, state: Path, *, as_json: bool) -> Observer:
    """Lines for people or scripts on standard output, events as structured lines on standard error, the last one in ``state``."""
    from fed_node.events import RunOver
    from fed_node.health import status_keeper
    from fed_node.lines import RoundLines, over_line
    from fed_node.log import event_log
    from fedmentor.clock import SystemClock

    lines, log, note = RoundLines(), event_log(site), status_keeper(state, SystemClock())

    def observe(event: SessionEvent) -> None:
        log(event)
        note(event)
        line = lines.line(event)
        if line is not None:
            click.echo(line.json() if as_json else line.text())
        if isinstance(event, RunOver) and as_json:
            click.echo(over_line(event))

    return observe


@contextmanager
def _signals(stop: threading.Event, busy: threading.Event, say: Callable[[], None]) -> Iterator[None]:
    """The first signal to end asks the node to stop; a second one ends it the hard way, as does one while it reads its data.

    Args:
        stop: set to ask.
        busy: set once there is work to end in order.
        say: tells the supervisor.
    """

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        say()
        stop.set()
        if not busy.is_set():
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, ask) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.stdout.flush()
