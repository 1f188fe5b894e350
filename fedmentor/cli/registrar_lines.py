"""What ``fedmentor federation roster`` shows: for people a line a member, for scripts one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cryptography import x509

from fedmentor.identity.keys import load_tls_public, spki_digest
from fedmentor.identity.registrar_state import Member, RegistrarState
from fedmentor.identity.reply import authority_fingerprint


def roster_json(state: RegistrarState, authorities: Sequence[x509.Certificate]) -> dict[str, Any]:
    """The members of a federation, without anything private.

    Args:
        authorities: the bundle.
    """
    members = [{"uri": peer.uri, "site": peer.site, **_fields(member)} for peer, member in state.members().items()]
    return {
        "federation": state.federation,
        "roster_version": state.roster_version,
        "revoked_version": state.revoked_version,
        "authorities": [
            {"sha256": authority_fingerprint(one), "until_utc": one.not_valid_after_utc.isoformat()} for one in authorities
        ],
        "members": members,
        "invites": {uri: invite.expires_utc for uri, invite in sorted(state.invites.items())},
    }


def roster_lines(state: RegistrarState, authorities: Sequence[x509.Certificate]) -> Iterator[str]:
    """The same for people."""
    yield f"{state.federation}: roster version {state.roster_version}, deny-list version {state.revoked_version}"
    for one in authorities:
        yield f"  authority {authority_fingerprint(one)[:16]}…: until {one.not_valid_after_utc:%Y-%m-%d}"
    for peer, member in state.members().items():
        until = _expires(member)
        yield f"  {peer.label}: certificate until {until[:16].replace('T', ' ')} UTC, signing key {member.signing_key.hex()[:16]}…"
    for uri, invite in sorted(state.invites.items()):
        yield f"  invited: {uri}, until {invite.expires_utc[:16].replace('T', ' ')} UTC"


def _fields(member: Member) -> dict[str, Any]:
    return {
        "signing_key": member.signing_key.hex(),
        "tls_key_sha256": spki_digest(load_tls_public(member.tls_key)),
        "admitted_utc": member.admitted_utc,
        "certificate_until_utc": _expires(member),
        "serials": [certificate.serial for certificate in member.certificates],
    }


def _expires(member: Member) -> str:
    return max((certificate.not_after_utc for certificate in member.certificates), default="")
