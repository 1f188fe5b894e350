"""Fixed vectors: the product and a slow reference with plain integers agree on every byte."""

import hashlib
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secagg_make_vectors import VECTORS, encoded

from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.secagg.aggregator import Advertising
from fedmentor.secagg.checks import check_adverts
from fedmentor.secagg.masks import MaskedWords, words_sha256
from fedmentor.secagg.memory import SiteMemory
from fedmentor.secagg.messages import commit_from_bytes, reveal_from_bytes
from fedmentor.secagg.shamir import DRAW_BYTES
from fedmentor.secagg.signing import Signer
from fedmentor.secagg.site import Pinned, open_attempt
from fedmentor.secagg.terms import Member, Roster, Terms
from fedmentor.secagg.transcript import Context

CASES = json.loads(VECTORS.read_text())


class _Script:
    """Entropy that plays the case's bytes in the documented order."""

    def __init__(self, entropy):
        self._draws = [bytes.fromhex(entropy[name]) for name in ("share_key", "mask_key", "seed")]
        for name in ("seed_coefficients", "mask_key_coefficients"):
            data = bytes.fromhex(entropy[name])
            self._draws += [data[at : at + DRAW_BYTES] for at in range(0, len(data), DRAW_BYTES)]

    def __call__(self, size):
        draw = self._draws.pop(0)
        assert len(draw) == size
        return draw


def _sites(case):
    members = tuple(Member(i, SiteId(one["name"]), bytes.fromhex(one["signing_public"])) for i, one in enumerate(case["sites"]))
    terms = Terms(Roster(members), case["min_sites"], case["threshold"], 0)
    digests = (Digest(case[name]) for name in ("manifest", "model", "audit_root"))
    context = Context(RunId(case["run"]), Round(case["round"]), Attempt(case["attempt"]), *digests, terms.digest)
    pinned = Pinned(context.run, context.manifest, terms, context.model)
    return context, [
        open_attempt(
            pinned,
            Signer(i, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(one["signing_secret"]))),
            context,
            SiteMemory(context.run),
            _Script(one["entropy"]),
        )
        for i, one in enumerate(case["sites"])
    ]


def test_the_file_is_what_the_reference_makes():
    assert VECTORS.read_text() == encoded()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_an_attempt(case):
    expected, alive = case["expected"], [i for i in range(len(case["sites"])) if i not in case["dropped"]]
    context, sites = _sites(case)
    assert context.digest().hex() == expected["context"]

    advertising = Advertising(sites[0]._terms, context, len(expected["sum"]))
    for site in sites:
        advertising.add(site.advertise().message)
    adverts, sharing = advertising.close()
    assert [advert.body.hex() for advert in adverts] == expected["adverts"]
    assert check_adverts(sites[0]._terms, context.digest(), adverts).transcript.hex() == expected["transcript"]

    shares = [site.share(adverts) for site in sites]
    for one in shares:
        sharing.add(one)
    assert [commit_from_bytes(one.commit.body).commitment.hex() for one in shares] == expected["commitments"]

    deliveries, collecting = sharing.close()
    total = np.zeros(len(expected["sum"]), np.uint32)
    for i, site in enumerate(sites):
        site.accept(deliveries[i])
        words = np.array(case["sites"][i]["words"], np.uint32)
        upload = site.upload(words, Digest(words_sha256(words).hex()))
        assert upload.masked.words.tolist() == expected["masked"][i]
        if i in alive:
            collecting.add(upload.header, Digest(hashlib.sha256(upload.masked.to_bytes()).hexdigest()))
            total += upload.masked.words

    survivors, consenting = collecting.close()
    for i in alive:
        consenting.add(sites[i].consent(survivors).message)
    consents, revealing = consenting.close()
    for i in alive:
        answer = sites[i].reveal(consents).message
        for one in reveal_from_bytes(answer.body).shares:
            assert one.share.hex() == expected["shares"][one.site][("seed", "mask_key")[one.kind]][i]
        revealing.add(answer)
    assert revealing.close().remove(MaskedWords(total)).tolist() == expected["sum"] == expected["sum_by_unmasking"]
