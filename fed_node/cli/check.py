"""``fedmentor node check``: everything that could keep a node from doing its part, one line each, before it runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fed_node.cli.progress import progress_lines

if TYPE_CHECKING:
    from fed_node.cli.progress import Advance
    from fed_node.doctor.finding import Finding

Item = TypeVar("Item")

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The node's TOML file; options below win over it.",
)
@click.option("--site", help="Name of this site.")
@click.option("--coordinator", metavar="HOST:PORT", help="Where the coordinator listens.")
@click.option("--proxy", metavar="HOST:PORT", help="HTTP proxy to ask for the connection.")
@click.option("--certificates", type=FOLDER, help="Folder with ca.pem and sites/SITE/.")
@click.option("--data", type=FOLDER, help="Dataset folder or PACS export of this site.")
@click.option("--state", type=FOLDER, help="The node's own folder.")
@click.option("--threads", type=int, help="CPU threads for training.")
@click.option("--teacher", type=FOLDER, help="Run folder of a teacher that should answer.")
@click.option("--pixels/--no-pixels", default=True, show_default=True, help="Read every image and mask.")
@click.option("--network/--no-network", default=True, show_default=True, help="Go to the coordinator.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def check(*, as_json: bool, **arguments: Any) -> int:
    """Look at everything that this site's node needs, and say what is wrong and what to do.

    Changes nothing: no file is made, and the coordinator sees no more than a TLS handshake.

    \b
    Exit codes: 0 no fault; 2 usage; 3 settings, certificate, machine or data have a fault;
    4 refused by policy (identity); 5 coordinator or teacher unreachable; 70 a store is damaged.
    """
    from fed_node.doctor.finding import exit_code

    findings = []
    with ExitStack() as stack:
        for finding in _findings(arguments, stack.enter_context(progress_lines())):
            findings.append(finding)
            if not as_json:
                _say(finding)
    code = exit_code(findings)
    if as_json:
        click.echo(json.dumps({"findings": [_json(finding) for finding in findings], "exit_code": code}, indent=2))
    return code


def _findings(arguments: dict[str, Any], advance: Advance) -> Iterator[Finding]:
    from fed_node.config import node_config
    from fed_node.doctor.examine import Scope, examine
    from fed_node.doctor.finding import fault_of, good
    from fedmentor.clock import SystemClock
    from fedmentor.errors import ConfigError

    scope = Scope(*(arguments.pop(name) for name in ("pixels", "network", "teacher")))
    file = arguments.pop("config")
    try:
        config = node_config(file, arguments)
    except ConfigError as error:
        yield fault_of("settings", error)
        return
    yield good("settings", f"those of site {config.site}")

    def progress(label: str, items: Sequence[Item], /) -> Iterable[Item]:
        for done, item in enumerate(items, 1):
            yield item
            advance(label, done, len(items), "")

    yield from examine(config, SystemClock(), scope, progress)


def _say(finding: Finding) -> None:
    from fed_node.doctor.finding import Level

    click.echo(f"{finding.level.value:<8} {finding.check:<11} {finding.what}")
    if finding.cure and finding.level is not Level.GOOD:
        click.echo(f"{'':20} try: {finding.cure}")


def _json(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "level": finding.level.value, "what": finding.what, "cure": finding.cure}
