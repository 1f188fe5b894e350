"""A signature of one kind is never taken for another: kinds against readers, every cell off the diagonal refused."""

import json
from typing import Literal

import pytest
from signed_kinds import AuthoritySigns, MemberSigns, contents

from fedmentor.errors import FedMentorError, IdentityRefused
from fedmentor.federation import RunManifest
from fedmentor.identity.signed import CanonicalDocument, SignedDocument, authorities_of, check_signature

AUTHORITY_KINDS = (
    "roster",
    "deny-list",
    "kit record",
    "run manifest",
    "run manifest that carries a bundle",
    "bundle",
    "certificate",
)
MEMBER_KINDS = (
    *("advert", "commit", "upload header", "consent", "reveal"),
    *("checkpoint", "countersignature", "request", "proof of an invite"),
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority that has signed one of each kind."""
    return AuthoritySigns(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def member():
    """A key that has signed one of each kind."""
    return MemberSigns()


def test_the_tables_name_every_kind(authority, member):
    assert tuple(authority.documents) == AUTHORITY_KINDS
    assert tuple(member.documents) == tuple(member.readers) == MEMBER_KINDS
    assert {kind for kind, _ in authority.readers.values()} == {kind for kind in AUTHORITY_KINDS if "carries" not in kind}


@pytest.mark.parametrize("kind", AUTHORITY_KINDS)
def test_what_the_authority_signed_is_taken_by_its_own_readers_alone(authority, kind):
    document = authority.documents[kind]
    check_signature(document, authority.authorities, "every one of them")
    taken = {name for name, (_, read) in authority.readers.items() if _takes(read, document)}
    assert taken == {name for name, (own, _) in authority.readers.items() if kind.startswith(own)}


@pytest.mark.parametrize("kind", MEMBER_KINDS)
def test_what_a_signing_key_signed_is_taken_by_its_own_reader_alone(member, kind):
    document = member.documents[kind]
    taken = [own for own, read in member.readers.items() if any(_takes(read, content) for content in contents(document))]
    assert taken == [kind]


def _takes(read, document):
    try:
        read(document)
    except FedMentorError:
        return False
    return True


def test_a_lenient_reader_of_pem_finds_the_bundle_that_a_manifest_carries(authority):
    carried = authority.documents["run manifest that carries a bundle"].data
    assert authorities_of(carried, "the manifest")[0] in authority.authorities, "so the form of a bundle has to be checked"
    with pytest.raises(IdentityRefused, match="bundle of authorities is not PEM as a registrar writes it"):
        authority.readers["the reply's bundle"][1](authority.documents["run manifest that carries a bundle"])


def test_every_kind_of_document_names_itself_and_a_manifest_does_not():
    named = [
        kind.model_fields["format"].default
        for kind in CanonicalDocument.__subclasses__()
        if kind.__module__.startswith("fedmentor")
    ]
    assert sorted(named) == ["fedmentor-kit-1", "fedmentor-revoked-1", "fedmentor-roster-1"]
    assert "format" not in RunManifest.model_fields
    assert RunManifest.model_config["extra"] == "forbid"


def test_a_document_without_its_name_is_not_canonical(authority):
    roster = authority.documents["roster"]
    nameless = {name: value for name, value in json.loads(roster.data).items() if name != "format"}
    signed = SignedDocument(json.dumps(nameless, sort_keys=True, separators=(",", ":")).encode(), roster.signature)
    with pytest.raises(FedMentorError):
        authority.readers["read_roster"][1](signed)


def test_a_kind_of_document_that_does_not_name_itself_cannot_be_written():
    with pytest.raises(TypeError, match="Nameless needs a field `format`"):

        class Nameless(CanonicalDocument):
            version: int

    with pytest.raises(TypeError, match="Undecided needs a field `format`"):

        class Undecided(CanonicalDocument):
            format: Literal["one", "two"] = "one"
