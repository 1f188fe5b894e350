"""Mutations that know a little of the structure: bytes, length fields, JSON trees, protobuf fields. All follows from the dice."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_BYTES = 1 << 16
"""A mutated input is not longer: what is over a limit is tested by the table of bad input."""

NUMBERS = (
    *(0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1),
)
REALS = (0.0, -0.0, 0.5, 1.0, -1.0, 5e-324, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "a",
    "A",
    " ",
    "\0",
    "\n",
    "../../x",
    "0" * 64,
    "f" * 64,
    "a" * 63,
    "a" * 64,
    "-a",
    "NaN",
    "1e999",
    "null",
    "\N{CYRILLIC SMALL LETTER A}",
    "\N{ZERO WIDTH SPACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{FULLWIDTH DIGIT ZERO}" * 64,
    "\ud800",
    "2026-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59+00:00",
    "0001-01-01T00:00:00-23:59",
    "127.0.0.1:99999",
    "9" * 5000,
    "[" * 2000,
)
TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\u0000", b"\\ud800", b"NaN", b"Infinity", b"1e999", b"-0", b"9" * 5000,
    b"[" * 3000, b'{"":' * 1500, b"null", b"true", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\r\n", b"\0",
    b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"= ",
    b"[[a]]\n", b"a.b.c = 1\n", b"'''", b'"""', b"#", b"0x", b"1979-05-27T07:32:00Z",
)  # fmt: skip

Dice = random.Random


def mutated(data: bytes, corpus: Sequence[bytes], dice: Dice) -> bytes:
    """One to four mutations, one after another."""
    for _ in range(dice.choice((1, 1, 1, 2, 2, 4))):
        data = dice.choice(BYTES)(data, corpus, dice)
    return data[:MAX_BYTES]


def _place(data: bytes, dice: Dice) -> int:
    return dice.randrange(len(data) + 1)


def _flip(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    if not data:
        return b"\0"
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def _set(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    at, byte = _place(data, dice), dice.choice((0, 1, 0x20, 0x22, 0x2F, 0x39, 0x7F, 0x80, 0xFE, 0xFF, dice.randrange(256)))
    return data[:at] + bytes([byte]) + data[at + 1 :]


def _cut(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    return data[: _place(data, dice)]


def _drop(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    at = _place(data, dice)
    return data[:at] + data[at + dice.choice((1, 2, 4, 8, 32)) :]


def _repeat(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    at, size = _place(data, dice), dice.choice((1, 4, 16, 64, 256))
    return data[: at + size] + data[at : at + size] * dice.choice((1, 1, 2, 30)) + data[at + size :]


def _insert(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    at = _place(data, dice)
    return data[:at] + dice.randbytes(dice.choice((1, 2, 4, 8, 33, 64))) + data[at:]


def _splice(data: bytes, corpus: Sequence[bytes], dice: Dice) -> bytes:
    other = dice.choice(corpus)
    return data[: _place(data, dice)] + other[_place(other, dice) :]


def _length(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    """A number of two, four or eight bytes somewhere says something else."""
    at, size = _place(data, dice), dice.choice((2, 4, 8))
    number = dice.choice((*NUMBERS, len(data), len(data) - at, dice.randrange(1 << 32))) % (1 << (8 * size))
    return data[:at] + number.to_bytes(size, dice.choice(("little", "big"))) + data[at + size :]


def _token(data: bytes, _corpus: Sequence[bytes], dice: Dice) -> bytes:
    at = _place(data, dice)
    return data[:at] + dice.choice(TOKENS) + data[at + dice.choice((0, 0, 1, 4)) :]


BYTES = (_flip, _flip, _set, _cut, _drop, _repeat, _insert, _splice, _length, _length, _token)


# --- JSON ---


def mutated_json(data: bytes, corpus: Sequence[bytes], dice: Dice) -> bytes:
    """A tree with another value, key or branch; one time in three its bytes are mutated instead."""
    if dice.randrange(3) == 0:
        return mutated(data, corpus, dice)
    tree = json.loads(dice.choice(corpus) if dice.randrange(8) == 0 else data)
    for _ in range(dice.choice((1, 1, 2, 3))):
        tree = _branch(tree, dice)
    text = json.dumps(tree, ensure_ascii=bool(dice.randrange(2)), indent=dice.choice((None, None, 2)))
    encoded = text.encode(errors="surrogatepass")
    return encoded if len(encoded) <= MAX_BYTES else data


def _branch(tree: Any, dice: Dice) -> Any:
    """Go down at random, and change what is there."""
    if isinstance(tree, dict) and tree and dice.randrange(5):
        key = dice.choice(list(tree))
        return {**tree, key: _branch(tree[key], dice)}
    if isinstance(tree, list) and tree and dice.randrange(5):
        at = dice.randrange(len(tree))
        return [*tree[:at], _branch(tree[at], dice), *tree[at + 1 :]]
    return _changed(tree, dice)


def _changed(tree: Any, dice: Dice) -> Any:
    if isinstance(tree, dict) and tree and dice.randrange(2):
        key = dice.choice(list(tree))
        rest = {name: value for name, value in tree.items() if name != key}
        return rest if dice.randrange(2) else {**rest, dice.choice(TEXTS): tree[key]}
    if isinstance(tree, list) and tree and dice.randrange(2):
        return dice.choice((tree * 2, tree[::-1], tree[1:], [*tree, tree], tree * 30 if len(tree) < 30 else tree))
    if isinstance(tree, str) and tree and dice.randrange(2):
        return dice.choice((tree + "\n", tree.upper(), tree[:-1], tree * 2, tree + "\0", tree[::-1]))
    value = dice.choice((None, True, False, [], {}, [[]], {"a": {}}, *NUMBERS, *REALS, *TEXTS))
    return _deep(value, dice) if dice.randrange(40) == 0 else value


def _deep(value: Any, dice: Dice) -> Any:
    for _ in range(dice.choice((3, 60, 400))):
        value = [value] if dice.randrange(2) else {"a": value}
    return value


# --- protobuf ---


def mutating_message(kind: type[Message]) -> Callable[[bytes, Sequence[bytes], Dice], bytes]:
    """A mutator that sets fields of a message to odd values; one time in three bytes are mutated instead."""

    def mutate(data: bytes, corpus: Sequence[bytes], dice: Dice) -> bytes:
        if dice.randrange(3) == 0:
            return mutated(data, corpus, dice)
        message = kind.FromString(data)
        for _ in range(dice.choice((1, 1, 2, 4))):
            _odd_field(message, corpus, dice)
        return message.SerializeToString()[:MAX_BYTES]

    return mutate


def _odd_field(message: Message, corpus: Sequence[bytes], dice: Dice) -> None:
    field = dice.choice(message.DESCRIPTOR.fields) if message.DESCRIPTOR.fields else None
    if field is None:
        return
    if dice.randrange(6) == 0:
        message.ClearField(field.name)
        return
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        _odd_field(getattr(message, field.name), corpus, dice)
        return
    value = _odd_value(field, getattr(message, field.name), corpus, dice)
    if getattr(field, "is_repeated", False):
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _odd_value(field: FieldDescriptor, now: Any, corpus: Sequence[bytes], dice: Dice) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return dice.choice((*(text for text in TEXTS if text != "\ud800"), str(now) + "a", str(now)[:-1]))
        case FieldDescriptor.TYPE_BYTES:
            whole = now if isinstance(now, bytes) else b"".join(now)
            return mutated(whole, corpus, dice)
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return dice.choice(REALS)
        case FieldDescriptor.TYPE_UINT32:
            return dice.choice(NUMBERS) % 2**32
        case FieldDescriptor.TYPE_UINT64:
            return dice.choice(NUMBERS) % 2**64
        case FieldDescriptor.TYPE_ENUM:
            return dice.choice((0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1))
    raise AssertionError(f"no odd value for a field of type {field.type}")
