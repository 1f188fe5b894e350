"""The error tree: exit codes, sentences, and that the drawing is the truth."""

import inspect
import re

import pytest

from fedmentor import errors
from fedmentor.errors import FedMentorError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FedMentorError)]


def test_the_drawing_shows_every_error_under_its_parent():
    drawn, path = {}, []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    (?P<branch>[│├└─ ]*)(?P<name>[A-Z][A-Za-z]+) ", line)
        if not match:
            continue
        depth = len(match["branch"]) // 4
        path = [*path[:depth], match["name"]]
        drawn[match["name"]] = path[-2] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_leaves_with_a_documented_exit_code(kind):
    assert kind("x").exit_code in {errors.EXIT_CONFIG, errors.EXIT_POLICY, errors.EXIT_PEER, errors.EXIT_BUG}


def test_text_has_sentence_and_cure():
    assert str(FedMentorError("it broke", cure="mend it")) == "it broke (mend it)"
    assert str(FedMentorError("it broke")) == "it broke"
