"""Writes the JSON Schema of ``status.json``: ``python -m coordinator.dashboard.schema docs/dashboard.schema.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from coordinator.dashboard.status import STATUS_VERSION, Status
from fedmentor.models import write_atomically

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def status_schema() -> dict[str, Any]:
    """What ``status.json`` always is, as a JSON Schema (draft 2020-12)."""
    named = {"$schema": DIALECT, "$id": f"urn:fedmentor:dashboard:{STATUS_VERSION}"}
    return {**named, **Status.model_json_schema(mode="serialization")}


def schema_bytes() -> bytes:
    """The file's content: keys in the order of the values, two spaces, one final newline."""
    return (json.dumps(status_schema(), indent=2, ensure_ascii=False) + "\n").encode()


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def main(path: Path) -> None:
    """Write the JSON Schema of status.json to PATH."""
    write_atomically(path, schema_bytes())


if __name__ == "__main__":
    main()
