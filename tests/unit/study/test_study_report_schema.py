"""The documented schema is the schema of the values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError
from study_report_example import make_examples, make_report

from fedmentor.errors import DataError
from study.report.schema import main, report_schema, schema_bytes
from study.report.values import load_report

DOCUMENTED = Path(__file__).resolve().parents[3] / "docs" / "report.schema.json"


def test_the_documented_schema_is_up_to_date():
    assert DOCUMENTED.read_bytes() == schema_bytes(), "write it anew: python -m study.report.schema docs/report.schema.json"


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(report_schema())


def test_a_report_fits_the_schema_and_reads_back(tmp_path):
    report = make_report(examples=make_examples(tmp_path, 1))
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json(indent=2))
    Draft202012Validator(json.loads(DOCUMENTED.read_text())).validate(json.loads(path.read_text()))
    assert load_report(path) == report


@pytest.mark.parametrize("spoil", [{"extra": 1}, {"runs": [{"init": "random"}]}, {"total_seconds": "soon"}])
def test_what_is_not_a_report_fits_neither(tmp_path, spoil):
    wrong = json.loads(make_report().model_dump_json()) | spoil
    with pytest.raises(ValidationError):
        Draft202012Validator(report_schema()).validate(wrong)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(wrong))
    with pytest.raises(DataError, match="is not a report"):
        load_report(path)


def test_the_command_writes_the_file(tmp_path):
    path = tmp_path / "schema.json"
    assert CliRunner().invoke(main, [str(path)]).exit_code == 0
    assert path.read_bytes() == schema_bytes()
