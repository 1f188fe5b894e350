"""The registrar's approval of a run: a signature over its manifest, beside it in ``MANIFEST.sig``.

Without it the coordinator alone decides on name, roster, model and mode of a run. A registrar who signs has looked at them, so that
a coordinator cannot run the same sites twice from one model, or a few sites chosen by itself.
"""

from __future__ import annotations

from pathlib import Path

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.federation import RunManifest
from fedmentor.identity.files import read_bounded
from fedmentor.identity.layout import CA_FILE
from fedmentor.identity.roster import FederationRoster
from fedmentor.identity.signed import MAX_CA_BYTES, MAX_SIGNATURE_BYTES, SignedDocument, authorities_of, check_signature

_ASK = "have the registrar sign it again: `fedmentor federation approve`"


def approval_file(manifest: Path) -> Path:
    """Where the approval of a manifest file lies."""
    return manifest.with_name(f"{manifest.name}.sig")


def read_approval(manifest: Path) -> bytes:
    """The registrar's signature over a manifest file; empty where there is none.

    Raises:
        ConfigError: it cannot be read, or is longer than a signature.
    """
    path = approval_file(manifest)
    return read_bounded(path, MAX_SIGNATURE_BYTES, _ASK) if path.exists() else b""


def approved(data: bytes, signature: bytes, certificates: Path) -> bool:
    """Whether the registrar approved a manifest; False where nobody claims so.

    Args:
        data: the manifest's canonical bytes.
        signature: DER, or empty.
        certificates: folder with ``ca.pem``.

    Raises:
        ConfigError: ``ca.pem`` cannot be read.
        IdentityRefused: there is a signature, and it is not the registrar's.
    """
    if not signature:
        return False
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise IdentityRefused("the run's manifest comes with a signature that is none", cure=_ASK)
    ca_file = certificates / CA_FILE
    authorities = authorities_of(read_bounded(ca_file, MAX_CA_BYTES, _ASK), str(ca_file))
    try:
        check_signature(SignedDocument(data, signature), authorities, "the run's manifest")
    except IdentityRefused as error:
        raise IdentityRefused(error.message, cure=_ASK) from error
    return True


def check_members(manifest: RunManifest, roster: FederationRoster | None) -> None:
    """Refuse to approve a run of sites that are no members, or under keys that are not theirs.

    Raises:
        ConfigError: names the first such site.
    """
    keys = roster.signing_keys if roster else {}
    for site in manifest.roster:
        if site not in keys:
            raise ConfigError(f"site {site} of run {manifest.run} is not a member of this federation", cure="admit it first")
    for member in (member for group in manifest.groups for member in group.terms.roster.members):
        if keys[member.site] != member.signing_key:
            raise ConfigError(
                f"run {manifest.run} names another signing key for site {member.site} than the roster",
                cure="have the manifest made again with the newest roster",
            )


def check_canonical(data: bytes, canonical: bytes, source: str) -> None:
    """Refuse to sign a file whose bytes are not those that sites are sent.

    Raises:
        ConfigError: they differ.
    """
    if data != canonical:
        raise ConfigError(f"{source} is not as `fedmentor coordinator manifest` wrote it", cure="write it again; do not edit it")
