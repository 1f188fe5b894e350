"""The policy that a page's browser is told: its own script and style, and nothing from elsewhere."""

import base64
import hashlib

import pytest

from fedmentor.pages.document import page_answer

PAGE = "<html><style>p { color: red }</style>\n<p>Text\n<script>\nlet x = 'é';\n</script></html>"


def named(content):
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def test_the_policy_names_the_only_script_and_style_by_their_hashes():
    answer = page_answer(PAGE)
    assert (answer.body.decode(), answer.media_type) == (PAGE, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        **dict.fromkeys(("default-src", "frame-ancestors", "base-uri", "form-action"), "'none'"),
        "script-src": named("\nlet x = 'é';\n"),
        "style-src": named("p { color: red }"),
        "img-src": "data:",
        "connect-src": "'self'",
        "require-trusted-types-for": "'script'",
    }


@pytest.mark.parametrize("text", [PAGE + "<script>more()</script>", PAGE.replace("style>", "i>")])
def test_a_page_with_more_scripts_or_without_a_style_is_a_mistake(text):
    with pytest.raises(ValueError, match="unpack"):
        page_answer(text)
