"""The options of ``fedmentor coordinator manifest`` about malicious sites, the model gate and central privacy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--rule",
        type=click.Choice(["clip", "median", "trimmed-mean", "krum"]),
        help="Robust rule in place of the weighted mean.  [default: clip with --aggregation plain+robust]",
    ),
    click.option("--clip-to", type=float, metavar="NORM", help="With --rule clip: fixed bound instead of the median norm."),
    click.option("--weight-cap", type=float, help="With --rule clip: largest weight, in units of the median weight.  [default: 1]"),
    click.option("--malicious", type=int, help="With --rule trimmed-mean or krum: how many sites may lie.  [default: 1]"),
    click.option("--selected", type=int, help="With --rule krum: updates that make the mean; 1 is Krum.  [default: all but those]"),
    click.option(
        "--set-aside-after", type=int, metavar="ROUNDS", help="Flagged rounds until a site is out; 0: never.  [default: 3]"
    ),
    click.option(
        "--gate-drop", type=float, metavar="DICE", help="Model gate: Dice, 0 to 1, that the median site may lose a round."
    ),
    click.option("--gate-sites", type=int, help="Model gate: fewest sites that must have scored.  [default: 3]"),
    click.option("--gate-seconds", type=float, help="Model gate: how long it waits for scores.  [default: 600]"),
    click.option("--site-epsilon", type=float, help="Central privacy: what all models together may tell about a site."),
    click.option("--site-delta", type=float, help="With --site-epsilon: well under one over the number of sites."),
    click.option("--site-clip", type=float, metavar="NORM", help="With --site-epsilon: largest norm of a site's update."),
)


def defence_options(command: Command) -> Command:
    """Add the options to a command; they arrive under their own names, None where they were not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
