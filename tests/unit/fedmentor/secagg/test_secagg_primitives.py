"""The primitives, called as the product calls them, against the published vectors of RFC 7748, 5869, 8032 and SP 800-38A."""

import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmentor.secagg.masks import BLOCK_WORDS, FIELD_PRIME, LOW_ORDER_POINTS, Mask, agree, apply_masks, check_public_key, derive
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.sealing import seal, unseal
from fedmentor.secagg.secret import Secret
from fedmentor.secagg.signing import MAX_SIGNED_BYTES, Signed, Signer, signed_from_bytes, verify
from fedmentor.secagg.transcript import PROTOCOL, hash_fields
from fedmentor.testing.secagg import seeded_entropy

# Points of low order, and other ways of writing them that fit 32 bytes.
LOW_ORDER = [*sorted(LOW_ORDER_POINTS), FIELD_PRIME, FIELD_PRIME + 1, *(2**255 + point for point in sorted(LOW_ORDER_POINTS))]


def _x25519(scalar, point):
    return agree(X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar)), bytes.fromhex(point)).hex()


@pytest.mark.parametrize(
    ("scalar", "point", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
    ],
    ids=["5.2 first", "5.2 second", "6.1"],
)
def test_rfc_7748(scalar, point, product):
    assert _x25519(scalar, point) == product


def test_rfc_5869_case_1():
    key = derive(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert key.reveal().hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_rfc_5869_case_3():
    key = derive(b"\x0b" * 22, b"", b"")
    assert key.reveal().hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ],
    ids=["test 1", "test 2"],
)
def test_rfc_8032(secret, public, message, signature):
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert Signer(0, key).public_key.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    # Ours is the same signature over the protocol's name and the message.
    signed = Signer(0, key).sign(b"body")
    assert signed == Signed(b"body", key.sign(PROTOCOL + b"\0body"))
    verify(bytes.fromhex(public), signed)


def test_sp_800_38a_ctr_aes256():
    key = Secret(bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"))
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    words = np.zeros(16, np.uint32)
    apply_masks(words, [Mask(key, 1)], start=counter * BLOCK_WORDS)
    assert words.astype("<u4").tobytes().hex() == (
        "0bdf7df1591716335e9a8b15c860c502"
        "5a6e699d536119065433863c8f657b94"
        "1bc12c9c01610d5d0d8bd6a3378eca62"
        "2956e1c8693536b1bee99c73a31576b6"
    )


def test_gcm_aes256_test_case_14():
    # McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14: zero key, nonce and block.
    box = seal(Secret(bytes(32)), b"", 0, 0, (bytes(16), b""))
    assert box.hex() == "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"


@pytest.mark.parametrize("value", LOW_ORDER)
def test_low_order_and_non_canonical_keys_are_refused(value):
    with pytest.raises(ProtocolRefused) as refusal:
        check_public_key(value.to_bytes(32, "little"))
    assert refusal.value.reason is Reason.BAD_KEY


@pytest.mark.parametrize("value", sorted(LOW_ORDER_POINTS))
def test_points_of_low_order_make_no_secret(value):
    for scalar in (bytes(range(32)), b"\xff" * 32):
        with pytest.raises(ProtocolRefused, match="low order"):
            agree(X25519PrivateKey.from_private_bytes(scalar), value.to_bytes(32, "little"))


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ProtocolRefused, match="32 canonical bytes"):
        check_public_key(bytes(31))


def test_a_box_opens_for_its_recipient_in_its_attempt_alone():
    key, shares = Secret(b"k" * 32), (b"\1" * 32 + b"\0", b"\2" * 32 + b"\0")
    box = seal(key, b"tr", 1, 2, shares)
    assert unseal(key, b"tr", 1, 2, box) == shares
    for other in ((key, b"tr", 2, 1, box), (key, b"rt", 1, 2, box), (Secret(b"l" * 32), b"tr", 1, 2, box), (key, b"tr", 1, 2, b"")):
        with pytest.raises(ProtocolRefused) as refusal:
            unseal(*other)
        assert refusal.value.reason is Reason.BAD_SHARES


@pytest.mark.parametrize("shares", [(b"\xff" * 33, bytes(33)), (bytes(33), b"\xff" * 33), (bytes(33), bytes(32))])
def test_a_box_with_something_else_than_field_elements_is_refused(shares):
    with pytest.raises(ProtocolRefused, match="site 1"):
        unseal(Secret(bytes(32)), b"", 1, 2, seal(Secret(bytes(32)), b"", 1, 2, shares))


def test_a_signature_is_for_one_body_and_one_key():
    entropy = seeded_entropy(b"signing")
    one, other = (Signer(index, Ed25519PrivateKey.from_private_bytes(entropy(32))) for index in range(2))
    signed = one.sign(b"body")
    verify(one.public_key, signed)
    for key, wrong in ((other.public_key, signed), (one.public_key, Signed(b"bodz", signed.signature)), (b"short", signed)):
        with pytest.raises(ProtocolRefused) as refusal:
            verify(key, wrong)
        assert refusal.value.reason is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("size", [0, 64, MAX_SIGNED_BYTES + 1])
def test_sizes_of_signed_messages(size):
    with pytest.raises(ProtocolRefused) as refusal:
        signed_from_bytes(bytes(size))
    assert refusal.value.reason is Reason.MALFORMED


def test_fields_are_not_run_together():
    assert len({hash_fields(), hash_fields(b""), hash_fields(b"ab"), hash_fields(b"a", b"b"), hash_fields(b"", b"ab")}) == 5


def test_secrets_do_not_show():
    secret = Secret(b"x" * 32)
    assert "x" * 4 not in f"{secret!r} {secret} {Mask(secret, 1)} {[secret]}"
    assert "PrivateKey" not in repr(Signer(3, Ed25519PrivateKey.generate()))
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="not compared"):
        assert secret == Secret(b"x" * 32)
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(ValueError, match="32 bytes"):
        Secret(b"short")
