"""The files of a kit that say what is run as root, made from this program alone: a site takes no others.

A registrar decides who belongs to a federation, not what runs in a hospital. So ``unpack`` compares them with its own.
"""

from __future__ import annotations

from importlib.resources import files as resources
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedmentor.ids import SiteId
from fedmentor.kit.contents import COMPOSE_FILE, UNIT_FILE

COMPOSE_TEMPLATE: Final = f"{COMPOSE_FILE}.template"


def program_files(site: SiteId, federation: str, software: str) -> dict[str, bytes]:
    """The systemd unit and the Compose file of a site's node.

    Args:
        software: version of the container image.
    """
    facts = {"site": site, "federation": federation, "software": software}
    return {
        UNIT_FILE: resource(UNIT_FILE).encode(),
        COMPOSE_FILE: templates().get_template(COMPOSE_TEMPLATE).render(facts).encode(),
    }


def templates() -> Environment:
    """Those of this package."""
    return Environment(  # noqa: S701 - plain text and YAML of checked names, no HTML
        loader=PackageLoader("fedmentor.kit", "."), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )


def resource(name: str) -> str:
    """A file of this package."""
    return resources("fedmentor.kit").joinpath(name).read_text(encoding="utf-8")
