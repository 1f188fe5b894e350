"""Writes the JSON Schema of ``status.json``: ``python -m coordinator.dashboard.schema docs/dashboard.schema.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coordinator.dashboard.status import STATUS_VERSION, Status
from fedmentor.json_schema import file_bytes, named
from fedmentor.models import write_atomically


def status_schema() -> dict[str, Any]:
    """What ``status.json`` always is, as a JSON Schema (draft 2020-12)."""
    return named(f"dashboard:{STATUS_VERSION}", Status.model_json_schema(mode="serialization"))


def schema_bytes() -> bytes:
    """The file's content."""
    return file_bytes(status_schema())


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def main(path: Path) -> None:
    """Write the JSON Schema of status.json to PATH."""
    write_atomically(path, schema_bytes())


if __name__ == "__main__":
    main()
