"""What the documents say exists: commands with their options, make targets, files, links, and the errors that they explain."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedmentor.cli import cli

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("fedmentor", "teacher_service", "fed_node", "coordinator", "study", "deploy")

SHORTEST_FRAGMENT = 6
"""Characters of a quoted sentence, between two gaps, that are worth looking for."""


def named(documents: list[Path]) -> list:
    """One case a document, called by its name."""
    return [pytest.param(document, id=document.name) for document in documents]


def code_blocks(text: str) -> Iterator[str]:
    """Blocks that a shell would run, with continued lines joined."""
    for block in re.findall(r"```(?:sh|console|)\n(.*?)```", text, flags=re.DOTALL):
        yield re.sub(r"\\\n\s*", " ", block)


def fedmentor_calls(text: str) -> Iterator[list[str]]:
    """The words after ``fedmentor`` of each call in a document's blocks and inline code."""
    lines = [line for block in code_blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`(fedmentor [^`]+)`", text)
    for line in lines:
        for call in re.findall(r"(?:^|[\s/(])fedmentor ([a-z]+(?: [^|;#&>]*)?)(?=$|[|;#&>])", line):
            try:
                yield shlex.split(call)
            except ValueError:  # a quotation that goes on elsewhere
                continue


def unknown_in(words: list[str]) -> str:
    """The first word of a call that the program does not know, or nothing."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            return rest[0]
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"-h", "--help", "--version", "--debug"}
    written = (word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word))
    return next((word for word in written if word not in known), "")


@pytest.mark.parametrize("document", named(DOCUMENTS))
def test_every_command_and_option_exists(document):
    unknown = {(" ".join(call), word) for call in fedmentor_calls(document.read_text()) if (word := unknown_in(call))}
    assert not unknown


def test_a_command_that_does_not_exist_is_found():
    (call,) = fedmentor_calls("```sh\nfedmentor node run --no-such-option 3\n```")
    assert unknown_in(call) == "--no-such-option"
    (call,) = fedmentor_calls("say `fedmentor node walk`")
    assert unknown_in(call) == "walk"


@pytest.mark.parametrize("document", named(DOCUMENTS))
def test_every_make_target_exists(document):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = document.read_text()
    blocks = "\n".join(code_blocks(text))
    written = {*re.findall(r"^\$? ?make (?:-s )?([a-z-]+)", blocks, flags=re.MULTILINE), *re.findall(r"`make ([a-z-]+)", text)}
    assert written <= targets


@pytest.mark.parametrize("document", named(DOCUMENTS))
def test_every_link_leads_somewhere(document):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert not broken


def anchors(text: str) -> set[str]:
    """Names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", named(DOCUMENTS))
def test_every_file_that_is_named_is_there(document):
    folders = "fedmentor|teacher_service|fed_node|coordinator|study|proto|deploy|benchmarks|tests|docs"
    # What has neither an ending nor a slash at its end may be the name of a container image.
    written = set(re.findall(rf"`((?:{folders})/[\w./-]*(?:\.\w+|/))`", document.read_text()))
    assert not {name for name in written if not (ROOT / name).exists()}


def literals() -> str:
    """All text that the program holds, gaps of f-strings left out."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_every_error_that_is_explained_can_happen():
    said, missing = literals(), []
    for row in re.findall(r"^\| (.+?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.MULTILINE):
        for sentence in re.findall(r"`([^`]* [^`]* [^`]*)`", row):
            fragments = [part.strip(" .:") for part in re.split(r"…|error: ", sentence)]
            missing += [part for part in fragments if len(part) >= SHORTEST_FRAGMENT and part not in said]
    assert not missing
