"""Secure aggregation a second time, with plain integers and nothing of FedMentor: slow, for reading and for checking vectors.

X25519 after RFC 7748, HKDF after RFC 5869, AES-256 after FIPS 197 in counter mode after SP 800-38A, Shamir's scheme by the book.
Only SHA-256 and HMAC come from the standard library.
"""

from __future__ import annotations

import hashlib
import hmac

PROTOCOL = b"fedmentor/secagg/1"
FIELD = 2**255 - 19
SHAMIR = 2**256 + 297


def run_attempt(case):
    """Everything that an attempt makes from a case's inputs: a complete graph, everybody shares, ``dropped`` do not upload."""
    sites = range(len(case["sites"]))
    secrets = [{name: unhex(value) for name, value in site["entropy"].items()} for site in case["sites"]]
    context = context_digest(case)
    keys = [(x25519(one["share_key"], base()), x25519(one["mask_key"], base())) for one in secrets]
    adverts = [b"\x01" + context + short(i) + keys[i][0] + keys[i][1] + bytes(32) for i in sites]
    transcript = fields_hash(PROTOCOL, b"transcript", context, *adverts)
    commitments = [fields_hash(PROTOCOL, b"commitment", transcript, short(i), secrets[i]["seed"]) for i in sites]
    shares = [{kind: deal(secrets[i], kind, case["threshold"], len(sites)) for kind in ("seed", "mask_key")} for i in sites]
    masked = [mask(case, i, secrets, keys, transcript) for i in sites]
    alive = [i for i in sites if i not in case["dropped"]]
    total = [sum(case["sites"][i]["words"][place] for i in alive) % 2**32 for place in range(len(case["sites"][0]["words"]))]
    return {
        "context": context.hex(),
        "transcript": transcript.hex(),
        "adverts": [advert.hex() for advert in adverts],
        "commitments": [one.hex() for one in commitments],
        "shares": [{kind: [share.hex() for share in held] for kind, held in one.items()} for one in shares],
        "masked": masked,
        "sum": total,
        "sum_by_unmasking": unmask(case, alive, masked, secrets, keys, transcript),
    }


def context_digest(case):
    numbers = [len(case["sites"]), case["min_sites"], case["threshold"], 0]
    members = [field for site in case["sites"] for field in (site["name"].encode(), unhex(site["signing_public"]))]
    terms = fields_hash(b"terms", *(n.to_bytes(4, "little") for n in numbers), *members)
    long = [case[name].to_bytes(8, "little") for name in ("round", "attempt")]
    digests = [unhex(case[name]) for name in ("manifest", "model", "audit_root")]
    return fields_hash(PROTOCOL, b"context", case["run"].encode(), *long, *digests, terms)


def mask(case, me, secrets, keys, transcript):
    words = add(case["sites"][me]["words"], stream(hkdf(secrets[me]["seed"], transcript, b"self"), len_of(case)), 1)
    for other in range(len(secrets)):
        if other != me:
            words = add(words, stream(pair_key(me, other, secrets, keys, transcript), len_of(case)), 1 if me < other else -1)
    return words


def unmask(case, alive, masked, secrets, keys, transcript):
    total = [0] * len_of(case)
    for i in alive:
        total = add(add(total, masked[i], 1), stream(hkdf(secrets[i]["seed"], transcript, b"self"), len_of(case)), -1)
        for gone in case["dropped"]:
            sign = -1 if i < gone else 1
            total = add(total, stream(pair_key(i, gone, secrets, keys, transcript), len_of(case)), sign)
    return total


def pair_key(one, other, secrets, keys, transcript):
    shared = x25519(secrets[one]["mask_key"], keys[other][1])
    return hkdf(shared, transcript, b"pair" + short(min(one, other)) + short(max(one, other)))


def deal(secrets, kind, threshold, holders):
    draws = secrets[f"{kind}_coefficients"]
    assert len(draws) == 49 * (threshold - 1)
    coefficients = [number(secrets[kind])] + [number(draws[at : at + 49]) % SHAMIR for at in range(0, len(draws), 49)]
    return [
        (sum(c * pow(x, power, SHAMIR) for power, c in enumerate(coefficients)) % SHAMIR).to_bytes(33, "little")
        for x in range(1, holders + 1)
    ]


def x25519(scalar, point):
    """RFC 7748, section 5, the Montgomery ladder as printed there."""
    k = (number(scalar) & ~7 & (2**255 - 1)) | 2**254
    x1 = number(point) & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        x3, z3 = (da + cb) ** 2 % FIELD, x1 * (da - cb) ** 2 % FIELD
        e = aa - bb
        x2, z2 = aa * bb % FIELD, e * (aa + 121665 * e) % FIELD
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, FIELD - 2, FIELD) % FIELD).to_bytes(32, "little")


def hkdf(material, salt, info):
    """RFC 5869 for 32 bytes: one block is enough."""
    return hmac.digest(hmac.digest(salt, material, "sha256"), info + b"\x01", "sha256")


def stream(key, words):
    """AES-256-CTR from counter 0, read as little-endian words."""
    blocks = b"".join(aes256(key, counter.to_bytes(16, "big")) for counter in range((words + 3) // 4))
    return [number(blocks[4 * i : 4 * i + 4]) for i in range(words)]


def aes256(key, block):
    """FIPS 197, one block."""
    round_keys = expand(key)
    state = [a ^ b for a, b in zip(block, round_keys[0], strict=True)]
    for turn in range(1, 15):
        state = [SBOX[value] for value in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
        if turn < 14:
            state = [value for column in range(4) for value in mix(state[4 * column : 4 * column + 4])]
        state = [a ^ b for a, b in zip(state, round_keys[turn], strict=True)]
    return bytes(state)


def expand(key):
    words, constant = [list(key[i : i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        last = words[-1]
        if i % 8 == 0:
            last = [SBOX[value] for value in last[1:] + last[:1]]
            last[0] ^= constant
            constant = times(constant, 2)
        elif i % 8 == 4:
            last = [SBOX[value] for value in last]
        words.append([a ^ b for a, b in zip(words[i - 8], last, strict=True)])
    return [[value for word in words[4 * i : 4 * i + 4] for value in word] for i in range(15)]


def mix(column):
    a, b, c, d = column
    return [times(p, 2) ^ times(q, 3) ^ r ^ s for p, q, r, s in ((a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c))]


def times(a, b):
    """Product in GF(2**8) modulo x**8 + x**4 + x**3 + x + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def substitution():
    box = []
    for value in range(256):
        inverse = next((other for other in range(256) if times(value, other) == 1), 0)
        rotated = [(inverse << turn | inverse >> (8 - turn)) & 255 for turn in range(5)]
        box.append(rotated[0] ^ rotated[1] ^ rotated[2] ^ rotated[3] ^ rotated[4] ^ 0x63)
    return box


SBOX = substitution()


def fields_hash(*fields):
    return hashlib.sha256(b"".join(len(field).to_bytes(4, "little") + field for field in fields)).digest()


def add(words, others, sign):
    return [(word + sign * other) % 2**32 for word, other in zip(words, others, strict=True)]


def len_of(case):
    return len(case["sites"][0]["words"])


def base():
    return (9).to_bytes(32, "little")


def number(data):
    return int.from_bytes(data, "little")


def short(index):
    return index.to_bytes(2, "little")


def unhex(text):
    return bytes.fromhex(text)
