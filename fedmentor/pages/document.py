"""A page in one file: it loads nothing from elsewhere and runs no script but its own (by hash, not by ``unsafe-inline``)."""

from __future__ import annotations

import base64
import hashlib
import re

from fedmentor.pages.values import Answer


def page_answer(text: str) -> Answer:
    """A page, with the policy that its browser holds it to.

    Args:
        text: HTML with one ``<style>`` and one ``<script>``, both without attributes.

    Raises:
        ValueError: there are more of them, or none.
    """
    policy = (
        f"default-src 'none'; script-src {_hash_of('script', text)}; style-src {_hash_of('style', text)}; img-src data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return Answer(text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy})


def _hash_of(element: str, text: str) -> str:
    """How a policy names the one inline element of that kind (Content Security Policy level 3, section 2.3.1)."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
