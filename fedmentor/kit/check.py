"""Looking at a kit before anything of it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.federation import RunManifest, manifest_from_bytes
from fedmentor.identity.approval import check_canonical
from fedmentor.identity.invite import MAX_INVITE_BYTES, Invite, invite_from_bytes
from fedmentor.identity.layout import CA_FILE
from fedmentor.identity.reply import authority_fingerprint, plain_fingerprint
from fedmentor.identity.revocation import REVOKED_FILE, REVOKED_SIGNATURE_FILE, RevocationList, revocations_from_bytes
from fedmentor.identity.roster import ROSTER_FILE, ROSTER_SIGNATURE_FILE, FederationRoster, roster_from_bytes
from fedmentor.identity.signed import (
    MAX_CA_BYTES,
    MAX_SIGNATURE_BYTES,
    SignedDocument,
    authorities_of,
    check_signature,
    document_from_bytes,
)
from fedmentor.kit.archive import unpack
from fedmentor.kit.contents import (
    INVITE_FILE,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    MAX_RECORD_BYTES,
    RECORD_FILE,
    RECORD_SIGNATURE_FILE,
    SEALS,
    SUMS_FILE,
    KitRecord,
    check_compatible,
    sha256,
    sums,
)
from fedmentor.kit.program import program_files

_ANOTHER = "ask the registrar for another kit"


@dataclass(frozen=True)
class CheckedKit:
    """A kit that holds together and is of the authority that is in it.

    Attributes:
        files: content by name, all of them.
        record: whose it is.
        authorities: fingerprints of those in it, the signer first: it is the one to compare, and vouches for the others.
        compared: whether a person has.
        roster: the members when it was made.
        revoked: the deny-list then; None where there was none.
        invite: None where it travels on another way.
        run: the manifest in it, if there is one.
    """

    files: Mapping[str, bytes]
    record: KitRecord
    authorities: tuple[str, ...]
    compared: bool
    roster: FederationRoster
    revoked: RevocationList | None
    invite: Invite | None
    run: RunManifest | None


def check_kit(data: bytes, fingerprint: str | None = None) -> CheckedKit:
    """Check an archive that anybody may have made.

    1. it is an archive as kits are (fedmentor.kit.archive.unpack); 2. it is for this program's protocol; 3. every file is what
    SHA256SUMS says, and none is missing; 4. the authority whose fingerprint a person compared, where one did, is in it; 5. that one
    signed the record, which names every file, the bundle of authorities too; 6. the bundle signed roster and deny-list, which are
    of the record's federation; 7. the manifest names the site, and its approval is the bundle's; 8. the invite is this site's, and
    of the same bundle; 9. what is run as root, the unit and the Compose file, is this program's own.

    What the caller still owes: where no fingerprint was compared, to say so. Without it, all that is shown is that whoever made the
    kit made all of it.

    Args:
        data: the archive.
        fingerprint: SHA-256 of the authority as the registrar read it out; None where nobody asked.

    Raises:
        ConfigError: 1, 2, 3, 9, or a document is not what it should be.
        IdentityRefused: 4 to 8.
    """
    files = unpack(data)  # 1
    check_compatible(files.get(RECORD_FILE, b""))  # 2
    _check_sums(files)  # 3
    authorities = authorities_of(files.get(CA_FILE, b"")[: MAX_CA_BYTES + 1], "the kit's ca.pem")
    trusted = _trusted(authorities, fingerprint)  # 4
    signer = check_signature(_document(files, RECORD_FILE, RECORD_SIGNATURE_FILE), trusted, f"the kit's {RECORD_FILE}")
    record = _checked_record(files[RECORD_FILE], files)  # 5
    roster = roster_from_bytes(_signed(files, ROSTER_FILE, ROSTER_SIGNATURE_FILE, authorities), "the kit's roster")  # 6
    revoked = None
    if REVOKED_FILE in files:
        listed = _signed(files, REVOKED_FILE, REVOKED_SIGNATURE_FILE, authorities)
        revoked = revocations_from_bytes(listed, "the kit's deny-list")
    if roster.federation != record.federation or (revoked is not None and revoked.federation != record.federation):
        raise IdentityRefused("the kit's roster or deny-list is another federation's", cure=_ANOTHER)
    run = _checked_run(files, record)  # 7
    if run is not None and MANIFEST_SIGNATURE_FILE in files:
        _signed(files, MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, authorities)
    known = tuple(authority_fingerprint(one) for one in (signer, *(one for one in authorities if one != signer)))
    invite = _checked_invite(files, record)  # 8
    _check_program(files, record)  # 9
    return CheckedKit(files, record, known, fingerprint is not None, roster, revoked, invite, run)


def _trusted(authorities: Sequence[x509.Certificate], fingerprint: str | None) -> list[x509.Certificate]:
    """Those that may have signed the record.

    Raises:
        IdentityRefused: the one that a person compared is not among them.
    """
    if fingerprint is None:
        return list(authorities)
    found = [one for one in authorities if authority_fingerprint(one) == plain_fingerprint(fingerprint)]
    if not found:
        raise IdentityRefused(
            f"the kit's authority is {authority_fingerprint(authorities[0])}, not the one that was given",
            cure="compare it with the registrar by telephone",
        )
    return found


def _document(files: Mapping[str, bytes], name: str, signature_name: str) -> SignedDocument:
    return SignedDocument(files.get(name, b""), files.get(signature_name, b"")[: MAX_SIGNATURE_BYTES + 1])


def _signed(files: Mapping[str, bytes], name: str, signature_name: str, authorities: Sequence[x509.Certificate]) -> bytes:
    """A file of the kit that one of these authorities signed.

    Raises:
        IdentityRefused: none did.
    """
    document = _document(files, name, signature_name)
    check_signature(document, authorities, f"the kit's {name}")
    return document.data


def _check_sums(files: Mapping[str, bytes]) -> None:
    said = files.get(SUMS_FILE, b"")
    found = {name: data for name, data in files.items() if name != SUMS_FILE}
    if sums(found) == said:
        return
    lines = set(said.decode("ascii", "replace").splitlines())
    odd = [name for name, data in found.items() if f"{sha256(data)}  {name}" not in lines]
    what = f"{min(odd)} in the kit is not as it was made" if odd else "a file of the kit is missing"
    raise ConfigError(what, cure="copy the kit again, or ask the registrar for another one")


def _checked_record(data: bytes, files: Mapping[str, bytes]) -> KitRecord:
    record = document_from_bytes(KitRecord, data, MAX_RECORD_BYTES, "the kit's record")
    if record.files != {name: sha256(content) for name, content in files.items() if name not in SEALS}:
        raise IdentityRefused("the kit holds other files than its registrar signed", cure=_ANOTHER)
    return record


def _checked_run(files: Mapping[str, bytes], record: KitRecord) -> RunManifest | None:
    if MANIFEST_FILE not in files:
        return None
    run = manifest_from_bytes(files[MANIFEST_FILE])
    check_canonical(files[MANIFEST_FILE], run.to_bytes(), "the kit's manifest")
    if record.site not in run.roster:
        raise IdentityRefused(f"the kit's manifest has no part for site {record.site}", cure=_ANOTHER)
    return run


def _checked_invite(files: Mapping[str, bytes], record: KitRecord) -> Invite | None:
    if INVITE_FILE not in files:
        return None
    if len(files[INVITE_FILE]) > MAX_INVITE_BYTES:
        raise ConfigError(f"the kit's invite is over {MAX_INVITE_BYTES} bytes", cure=_ANOTHER)
    invite = invite_from_bytes(files[INVITE_FILE], "the kit's invite")
    same = (invite.federation, invite.site, invite.authorities.encode()) == (record.federation, record.site, files[CA_FILE])
    if not same:
        raise IdentityRefused("the kit's invite is another site's, or of another authority", cure=_ANOTHER)
    return invite


def _check_program(files: Mapping[str, bytes], record: KitRecord) -> None:
    for name, own in program_files(record.site, record.federation, record.software).items():
        if files[name] != own:
            raise ConfigError(
                f"the kit's {name} is not that of this FedMentor, and no other is run here",
                cure=f"install FedMentor {record.software}, with which the kit was made, or ask the registrar for another kit",
            )
