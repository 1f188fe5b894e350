"""Tables of prompts: what they may say, and that a bad row is told with its line."""

import json

import pytest

from fedmentor.errors import ConfigError, DataError
from fedmentor.teacher.contract import MAX_BOXES, Box, Point, Prompt
from fedmentor.teacher.prompt_table import MAX_TABLE_BYTES, read_prompt_table


def table(tmp_path, text, name="prompts.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompt_table(tmp_path / name)


def test_rows_of_one_image_are_one_prompt(tmp_path):
    text = "note,id,x0,y0,x1,y1\n,a,1,2,3,4\n,b,0,0,9,9\n,a,5,6,7,8.5\n"
    found = table(tmp_path, text)
    assert found.of("a") == Prompt((Box(1, 2, 3, 4), Box(5, 6, 7, 8.5)))
    assert found.of("b") == Prompt((Box(0, 0, 9, 9),))
    assert found.name.startswith("csv:")
    with pytest.raises(DataError, match="no prompt for image 'c'"):
        found.of("c")


def test_clicks_and_boxes_may_stand_in_one_table(tmp_path):
    text = "\ufeffid,x0,y0,x1,y1,x,y,label\r\na,1,2,3,4,,,\r\na,,,,,2,3,1\r\nb,,,,,5,5,0\r\n"
    found = table(tmp_path, text)
    assert found.of("a") == Prompt((Box(1, 2, 3, 4),), (Point(2, 3, 1),))
    assert found.of("b") == Prompt((), (Point(5, 5, 0),))
    assert table(tmp_path, "id,x,y,label\na,1,2,1\n").of("a") == Prompt((), (Point(1, 2, 1),))


def test_a_line_of_json_is_a_prompt_with_an_id(tmp_path):
    lines = [{"id": "a", "boxes": [[1, 2, 3, 4]]}, {"id": "b", "objects": [{"box": [0, 0, 5, 5], "points": [[1, 1, 1]]}]}]
    found = table(tmp_path, "\n\n".join(json.dumps(line) for line in lines), "prompts.JSONL")
    assert found.of("a") == Prompt((Box(1, 2, 3, 4),))
    assert [each.kinds() for each in found.of("b").each()] == [("box", "point")]
    assert found.name.startswith("jsonl:")


BAD_CSV = {
    "no column": ("id,x0\na,1\n", "line 1: a column is missing"),
    "nothing": ("", "line 0: a column is missing"),
    "a word": ("id,x0,y0,x1,y1\na,1,2,3,4\na,1,2,three,4\n", "line 3: x1 is 'three', not a number"),
    "a gap": ("id,x0,y0,x1,y1\na,1,2,,4\n", "line 2: x1 is '', not a number"),
    "NaN": ("id,x0,y0,x1,y1\na,nan,2,3,4\n", "line 2: x0 is 'nan', not a number"),
    "a cell too few": ("id,x0,y0,x1,y1\na,1,2,3\n", "line 2: expected 5 cells"),
    "a cell too many": ("id,x0,y0,x1,y1\na,1,2,3,4,5\n", "line 2: expected 5 cells"),
    "inverted": ("id,x0,y0,x1,y1\na,5,2,3,4\n", "line 2: box .* is inverted"),
    "enormous": ("id,x0,y0,x1,y1\na,1,2,1e300,4\n", "line 2: a box is"),
    "no prompt": ("id,x0,y0,x1,y1\na,,,,\n", "line 2: there is neither a box nor a click"),
    "label": ("id,x,y,label\na,1,2,0.5\n", "line 2: a point's label"),
    "open quotes": ('id,x0,y0,x1,y1\n"a,1,2,3,4\n', "unexpected end of data"),
    "crowded": ("id,x0,y0,x1,y1\n" + "a,1,2,3,4\n" * (MAX_BOXES + 1), "line 66: an image has at most 64"),
    "not text": (b"id,\xff\xfe", "not UTF-8"),
    "too long": (b"#" * (MAX_TABLE_BYTES + 1), "over the limit"),
}

BAD_JSON = {
    "no JSON": ('{"id": "a", "boxes": [[1, 2, 3, 4]]}\n{', "line 2: this is not JSON"),
    "deep": ("[" * 100_000, "line 1: this is not JSON"),
    "no object": ("[1]", "line 1: expected an object"),
    "no id": ('{"boxes": [[1, 2, 3, 4]]}', "line 1: expected an object with 'id'"),
    "a number as id": ('{"id": 1, "boxes": [[1, 2, 3, 4]]}', "line 1: expected an object with 'id'"),
    "twice": ('\n{"id": "a", "boxes": [[1, 2, 3, 4]]}\n\n{"id": "a", "boxes": [[1, 2, 3, 4]]}', "line 4: image 'a' .* second time"),
    "no prompt": ('{"id": "a"}', "line 1: there is neither"),
    "unknown member": ('{"id": "a", "box": [1, 2, 3, 4]}', "line 1: a prompt is"),
    "inverted": ('{"id": "a", "boxes": [[5, 2, 3, 4]]}', "line 1: box .* is inverted"),
    "inverted object": ('{"id": "a", "objects": [{"box": [5, 2, 3, 4]}]}', "line 1: box .* is inverted"),
    "infinite": ('{"id": "a", "boxes": [[1, 2, Infinity, 4]]}', "line 1: a box is"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_row_is_told_with_its_line(tmp_path, case):
    text, sentence = BAD_CSV[case]
    with pytest.raises(DataError, match=sentence) as caught:
        table(tmp_path, text)
    assert "prompts.csv" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_bad_line_is_told_with_its_number(tmp_path, case):
    text, sentence = BAD_JSON[case]
    with pytest.raises(DataError, match=sentence) as caught:
        table(tmp_path, text, "prompts.jsonl")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["absent.csv", "prompts.txt"])
def test_what_is_no_table_is_told(tmp_path, name):
    with pytest.raises(ConfigError, match=name):
        read_prompt_table(tmp_path / name)
