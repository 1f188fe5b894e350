"""Write vectors.json: fixed inputs, and what the slow reference makes of them.

    python tests/unit/fedmentor/secagg/secagg_make_vectors.py

The file is committed; a test makes it again and compares.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secagg_slow_reference import run_attempt

VECTORS = Path(__file__).with_name("vectors.json")

CASES = (("three sites, nobody drops", 3, []), ("four sites, one drops", 4, [2]), ("seven sites, two drop", 7, [0, 5]))
WORDS = 19


def vectors():
    """All cases with inputs and expected values."""
    return [{"name": name, **(inputs := case(sites, dropped)), "expected": run_attempt(inputs)} for name, sites, dropped in CASES]


def case(sites, dropped):
    """Inputs of an attempt, from a hash of their names."""
    threshold = 2 * sites // 3 + 1
    return {
        "run": "vectors",
        "round": 7,
        "attempt": 2,
        "manifest": draw("manifest", 32),
        "model": draw("model", 32),
        "audit_root": draw("audit root", 32),
        "min_sites": 3,
        "threshold": threshold,
        "dropped": dropped,
        "sites": [site(f"{sites} {index}", index, threshold) for index in range(sites)],
    }


def site(label, index, threshold):
    """One site's keys, entropy and ring words."""
    signing = bytes.fromhex(draw(f"{label} signing", 32))
    words = bytes.fromhex(draw(f"{label} words", 4 * WORDS))
    return {
        "name": f"site-{index}",
        "signing_secret": signing.hex(),
        "signing_public": Ed25519PrivateKey.from_private_bytes(signing).public_key().public_bytes_raw().hex(),
        "words": [int.from_bytes(words[4 * place : 4 * place + 4], "little") for place in range(WORDS)],
        "entropy": {
            "share_key": draw(f"{label} share", 32),
            "mask_key": draw(f"{label} mask", 32),
            "seed": draw(f"{label} seed", 32),
            "seed_coefficients": draw(f"{label} seed coefficients", 49 * (threshold - 1)),
            "mask_key_coefficients": draw(f"{label} mask coefficients", 49 * (threshold - 1)),
        },
    }


def draw(label, size):
    """Hexadecimal bytes that anybody can make again."""
    return hashlib.shake_256(label.encode()).hexdigest(size)


def encoded():
    """The text of the file."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(encoded())
