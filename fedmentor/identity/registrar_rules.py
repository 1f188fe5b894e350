"""What a registrar decides, as pure functions from one state to the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmentor.errors import ConfigError, PolicyRefusal
from fedmentor.identity.invite import proves
from fedmentor.identity.keys import PublicKey, load_tls_public, raw_public, spki, spki_digest
from fedmentor.identity.names import Peer
from fedmentor.identity.registrar_state import IssuedCertificate, Member, RegistrarState
from fedmentor.identity.request import EnrolmentRequest
from fedmentor.identity.revocation import serial_text
from fedmentor.identity.roster import MAX_MEMBERS
from fedmentor.ids import Digest

MAX_NOTED = 16
"""Certificates of one member that are remembered: whoever asks again and again makes no file grow."""

RotationStep = Literal["begin", "switch", "retire"]


@dataclass(frozen=True)
class Vouching:
    """What a person at the registrar adds to a request.

    Attributes:
        fingerprint: what the member read out; empty where nobody was asked.
        replace: new keys may take the place of those that a member has.
    """

    fingerprint: str = ""
    replace: bool = False


def admit(state: RegistrarState, request: EnrolmentRequest, vouching: Vouching, now: datetime) -> RegistrarState:
    """Decide on a request whose form was checked.

    1. it is for this federation; 2. its keys were never revoked, and are nobody else's; 3. where the member has exactly these keys
    already, it gets a new certificate and nothing else changes; 4. an open invite, or a person who compared the fingerprint,
    vouches for the keys; 5. a member with other keys keeps them, unless its invite or that person says replace; 6. the coordinator
    is admitted before the sites, because the roster names it.

    Returns:
        The state with the member on a new roster. Keys that were replaced are revoked.

    Raises:
        PolicyRefusal: one of these does not hold; the message says which.
    """
    peer, known = request.peer, state.member(request.peer)
    # (1)
    if peer.federation != state.federation:
        raise PolicyRefusal(f"the request is for federation {peer.federation}, this registrar's is {state.federation}")
    # (2)
    _check_keys(state, request)
    # (3)
    if known is not None and _has_keys(known, request) and known.hosts == request.hosts:
        return state
    # (4)
    invited = _invited(state, request, now)
    if not invited and not _same_fingerprint(vouching.fingerprint, request.fingerprint):
        raise _nobody_vouches(state, request, vouching, now)
    if known is not None and _has_keys(known, request):
        return state.with_member(peer, known.model_copy(update={"hosts": request.hosts}))
    # (5)
    if known is not None and not (vouching.replace or (invited and state.invites[peer.uri].replace)):
        raise PolicyRefusal(
            f"{peer.label} is a member already, with other keys",
            cure="to let these take their place and revoke the old ones, admit with --replace or invite with --replace",
        )
    # (6)
    if peer.site is not None and state.coordinator is None:
        raise PolicyRefusal("the coordinator is not admitted yet", cure="admit the coordinator's request first")
    if len(state.sites) >= MAX_MEMBERS:
        raise PolicyRefusal(f"a federation has at most {MAX_MEMBERS} sites")
    if known is not None:
        state = _with_revoked(state, known, now)
    member = Member(
        tls_key=spki(request.tls_key),
        signing_key=raw_public(request.signing_key),
        hosts=request.hosts,
        admitted_utc=now.isoformat(),
    )
    invites = {uri: invite for uri, invite in state.invites.items() if uri != peer.uri}
    return state.with_member(peer, member).model_copy(update={"invites": invites}).with_next_roster(now)


def is_member(state: RegistrarState, request: EnrolmentRequest) -> bool:
    """Whether a request is one of a member, for the keys that it has."""
    known = state.member(request.peer) if request.peer.federation == state.federation else None
    return known is not None and _has_keys(known, request)


def revoke(state: RegistrarState, peer: Peer, now: datetime) -> RegistrarState:
    """Take a member off the roster, refuse its keys for ever and its certificates until they expire; close its invite.

    Raises:
        ConfigError: it is no member, and has no open invite.
    """
    member = state.member(peer)
    if member is None and peer.uri not in state.invites:
        raise ConfigError(f"{peer.label} is no member of {state.federation}", cure="see `fedmentor federation roster`")
    invites = {uri: invite for uri, invite in state.invites.items() if uri != peer.uri}
    state = state.model_copy(update={"invites": invites})
    if member is None:
        return state
    return _with_revoked(state, member, now).with_member(peer, None).with_next_roster(now)


def with_certificate(state: RegistrarState, peer: Peer, certificate: x509.Certificate, now: datetime) -> RegistrarState:
    """Note a certificate that was issued; drop notes of expired ones, and of all but the last MAX_NOTED.

    A revoked key is refused whatever its certificate's serial number, so a note that is dropped lets nobody in.

    Raises:
        ConfigError: the peer is no member.
    """
    member = state.member(peer)
    if member is None:
        raise ConfigError(f"{peer.label} is no member of {state.federation}")
    issued = IssuedCertificate(
        serial=serial_text(certificate.serial_number),
        not_after_utc=certificate.not_valid_after_utc.isoformat(),
        authority=state.signer,
        bundle=state.authorities[-1],
    )
    kept = tuple(one for one in member.certificates if not one.expired(now))
    return state.with_member(peer, member.model_copy(update={"certificates": (*kept, issued)[-MAX_NOTED:]}))


def due_step(state: RegistrarState) -> RotationStep:
    """The next step of replacing the authority."""
    if len(state.authorities) == 1:
        return "begin"
    return "retire" if state.signer == state.authorities[-1] else "switch"


def rotated(state: RegistrarState, step: RotationStep) -> RegistrarState:
    """The state after a step of replacing the authority.

    1. the step is the one that is due; 2. switch: every member was given the bundle with the new authority; 3. retire: every member
    was given a certificate of the new authority.

    Raises:
        PolicyRefusal: one of these does not hold.
    """
    # (1)
    due = due_step(state)
    if step != due:
        raise PolicyRefusal(f"the step {step} is not due", cure=f"the next one is `fedmentor federation rotate {due}`")
    newest = state.authorities[-1]
    if step == "begin":
        return state.model_copy(update={"authorities": (*state.authorities, newest + 1)})
    # (2) (3)
    late = [
        peer.label
        for peer, member in state.members().items()
        if not member.certificates
        or (member.certificates[-1].bundle if step == "switch" else member.certificates[-1].authority) < newest
    ]
    if late:
        names = f"{', '.join(late[:5])}{' and others' if len(late) > 5 else ''}"
        raise PolicyRefusal(
            f"too early for the step {step}: not renewed since the last one: {names}",
            cure="renew their certificates (`fedmentor federation renew`), or revoke who is gone",
        )
    if step == "switch":
        return state.model_copy(update={"signer": newest})
    return state.model_copy(update={"authorities": (newest,)})


def _with_revoked(state: RegistrarState, member: Member, now: datetime) -> RegistrarState:
    """A new deny-list with a member's certificates and keys."""
    live = tuple(one for one in (*state.revoked, *member.certificates) if not one.expired(now))
    keys = {*state.revoked_keys, *_digests(member)}
    changes = {"revoked": live, "revoked_keys": tuple(sorted(keys)), "revoked_version": state.revoked_version + 1}
    return state.model_copy(update={**changes, "revoked_utc": now.isoformat()})


def _check_keys(state: RegistrarState, request: EnrolmentRequest) -> None:
    keys: list[PublicKey] = [request.tls_key, request.signing_key]
    if not {spki_digest(key) for key in keys}.isdisjoint(state.revoked_keys):
        raise PolicyRefusal(
            f"a key in the request of {request.peer.label} was revoked", cure="make new keys with `enrol --replace` there"
        )
    for peer, member in state.members().items():
        if peer != request.peer and (
            member.tls_key == spki(request.tls_key) or member.signing_key == raw_public(request.signing_key)
        ):
            raise PolicyRefusal(
                f"a key in the request of {request.peer.label} is that of {peer.label}", cure="each end makes its own"
            )


def _has_keys(member: Member, request: EnrolmentRequest) -> bool:
    return member.tls_key == spki(request.tls_key) and member.signing_key == raw_public(request.signing_key)


def _invited(state: RegistrarState, request: EnrolmentRequest, now: datetime) -> bool:
    invite = state.invites.get(request.peer.uri)
    if invite is None or request.proof is None or datetime.fromisoformat(invite.expires_utc) <= now:
        return False
    return proves(request.proof, invite.key, request.peer, request.tls_key, request.signing_key)


def _nobody_vouches(state: RegistrarState, request: EnrolmentRequest, vouching: Vouching, now: datetime) -> PolicyRefusal:
    label, invite = request.peer.label, state.invites.get(request.peer.uri)
    if vouching.fingerprint:
        return PolicyRefusal(
            f"the request of {label} does not have that fingerprint",
            cure="do not admit it unless whoever runs that machine reads you the right one",
        )
    if request.proof is None:
        return PolicyRefusal(
            f"nobody vouches for the request of {label}: no invite was used",
            cure="let its operator read you the fingerprint that `enrol` printed there, and give it with --fingerprint",
        )
    if invite is not None and datetime.fromisoformat(invite.expires_utc) <= now:
        return PolicyRefusal(f"the invite of {label} has expired", cure="invite again, or admit with --fingerprint")
    return PolicyRefusal(
        f"the request of {label} proves no open invite: it was used, withdrawn, or made for other keys",
        cure="invite again, or admit with --fingerprint",
    )


def _same_fingerprint(heard: str, right: str) -> bool:
    digits = "".join(char for char in heard.lower() if char not in "-: ")
    return digits == right.replace("-", "")


def _digests(member: Member) -> set[Digest]:
    return {spki_digest(load_tls_public(member.tls_key)), spki_digest(Ed25519PublicKey.from_public_bytes(member.signing_key))}
