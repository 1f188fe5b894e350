"""The JSON Schema of ``report.json``, made from the values and kept in docs/ for readers in other languages.

``python -m study.report.schema docs/report.schema.json`` writes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fedmentor.models import write_atomically
from study.report.values import Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def report_schema() -> dict[str, Any]:
    """What ``load_report`` accepts, as a JSON Schema (draft 2020-12)."""
    return {"$schema": DIALECT, "$id": "urn:fedmentor:report:1", **Report.model_json_schema(mode="validation")}


def schema_bytes() -> bytes:
    """The file's content: keys in the order of the values, two spaces, one final newline."""
    return (json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n").encode()


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def main(path: Path) -> None:
    """Write the JSON Schema of report.json to PATH."""
    write_atomically(path, schema_bytes())


if __name__ == "__main__":
    main()
