"""JSON Schemas in docs/ for readers in other languages: made from the values, written by ``make schema``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def named(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its dialect (draft 2020-12) and ``urn:fedmentor:NAME``."""
    return {"$schema": DIALECT, "$id": f"urn:fedmentor:{name}", **schema}


def file_bytes(schema: Mapping[str, Any]) -> bytes:
    """A schema file's content: keys in the order of the values, two spaces, one final newline."""
    return (json.dumps(schema, indent=2, ensure_ascii=False) + "\n").encode()
