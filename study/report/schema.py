"""The JSON Schema of ``report.json``, made from the values and kept in docs/ for readers in other languages.

``python -m study.report.schema docs/report.schema.json`` writes it anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedmentor.json_schema import file_bytes, named
from fedmentor.models import write_atomically
from study.report.values import Report


def report_schema() -> dict[str, Any]:
    """What ``load_report`` accepts, as a JSON Schema (draft 2020-12)."""
    return named("report:1", Report.model_json_schema(mode="validation"))


def schema_bytes() -> bytes:
    """The file's content."""
    return file_bytes(report_schema())


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def main(path: Path) -> None:
    """Write the JSON Schema of report.json to PATH."""
    write_atomically(path, schema_bytes())


if __name__ == "__main__":
    main()
