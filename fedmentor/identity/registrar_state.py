"""What a registrar remembers: members and their certificates, open invites, versions. One JSON file, replaced as a whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedmentor import ids
from fedmentor.errors import ConfigError
from fedmentor.identity.files import read_bounded
from fedmentor.identity.names import Peer, federation_name
from fedmentor.identity.revocation import RevocationList
from fedmentor.identity.roster import MAX_MEMBERS, MAX_VERSION, FederationRoster, RawSigningKey, RosterMember, utc_text
from fedmentor.ids import Digest, SiteId, site_id
from fedmentor.models import write_atomically
from fedmentor.settings import first_fault

STATE_FILE: Final = "registrar.json"
MAX_STATE_BYTES: Final = 64 << 20

Utc = Annotated[str, AfterValidator(utc_text)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")


class IssuedCertificate(_Value):
    """One certificate.

    Attributes:
        serial: lower-case hexadecimal.
        not_after_utc: the end of its validity.
        authority: number of the authority that issued it.
        bundle: number of the newest authority in the bundle that went with it.
    """

    serial: str
    not_after_utc: Utc
    authority: int
    bundle: int

    def expired(self, now: datetime) -> bool:
        """Whether nobody takes it any more."""
        return datetime.fromisoformat(self.not_after_utc) < now


class Member(_Value):
    """The coordinator or a site, with the keys that it made.

    Attributes:
        tls_key: DER SubjectPublicKeyInfo.
        signing_key: raw Ed25519 public key.
        hosts: of the coordinator.
        admitted_utc: when these keys were admitted.
        certificates: those that have not expired.
    """

    tls_key: bytes
    signing_key: RawSigningKey
    hosts: tuple[str, ...] = ()
    admitted_utc: Utc
    certificates: tuple[IssuedCertificate, ...] = ()


class OpenInvite(_Value):
    """An invite that nobody has used.

    Attributes:
        key: raw Ed25519 public key that proves it; the token itself is not kept.
        expires_utc: from then on it is worth nothing.
        replace: the member may bring new keys in place of those it has.
    """

    key: RawSigningKey
    expires_utc: Utc
    replace: bool = False


class RegistrarState(_Value):
    """Everything a registrar knows but its private keys.

    Attributes:
        format: names the kind of file.
        federation: trust domain.
        leaf_days: how long certificates are valid.
        authorities: numbers of the authorities in the bundle, oldest first; a second one while the authority is rotated.
        signer: number of the one that issues certificates and signs documents.
        coordinator: once admitted.
        sites: admitted sites.
        invites: by URI of the invited.
        roster_version, roster_utc: of the roster; 0 before there is one.
        revoked_version, revoked_utc: of the deny-list; 0 before there is one.
        revoked: certificates that are refused although they have not expired.
        revoked_keys: SHA-256 of keys (SubjectPublicKeyInfo; raw for signing keys) that are never certified again.
    """

    format: Literal["fedmentor-registrar-1"] = "fedmentor-registrar-1"
    federation: Annotated[str, AfterValidator(federation_name)]
    leaf_days: int = Field(ge=1, le=397)
    authorities: tuple[int, ...] = Field((1,), min_length=1)
    signer: int = 1
    coordinator: Member | None = None
    sites: dict[Annotated[SiteId, AfterValidator(site_id)], Member] = Field(default_factory=dict, max_length=MAX_MEMBERS)
    invites: dict[str, OpenInvite] = Field(default_factory=dict)
    roster_version: int = Field(0, ge=0, le=MAX_VERSION)
    roster_utc: str = ""
    revoked_version: int = Field(0, ge=0, le=MAX_VERSION)
    revoked_utc: str = ""
    revoked: tuple[IssuedCertificate, ...] = ()
    revoked_keys: tuple[Annotated[Digest, AfterValidator(ids.digest)], ...] = ()

    def member(self, peer: Peer) -> Member | None:
        """A member's record; None where it was never admitted, or is no longer."""
        return self.coordinator if peer.site is None else self.sites.get(peer.site)

    def members(self) -> dict[Peer, Member]:
        """All members, the coordinator first, then sites by name."""
        found = {} if self.coordinator is None else {Peer(self.federation, None): self.coordinator}
        return found | {Peer(self.federation, site): self.sites[site] for site in sorted(self.sites)}

    def with_member(self, peer: Peer, member: Member | None) -> RegistrarState:
        """The state with a member added, changed, or gone."""
        if peer.site is None:
            return self.model_copy(update={"coordinator": member})
        others = {site: record for site, record in self.sites.items() if site != peer.site}
        return self.model_copy(update={"sites": others if member is None else {**others, peer.site: member}})

    def with_next_roster(self, now: datetime) -> RegistrarState:
        """The state with a roster to be signed anew."""
        return self.model_copy(update={"roster_version": self.roster_version + 1, "roster_utc": now.isoformat()})

    def roster(self) -> FederationRoster | None:
        """The roster that follows from the members; None before the coordinator is admitted."""
        if self.coordinator is None or self.roster_version == 0:
            return None
        members = tuple(RosterMember(site=site, signing_key=self.sites[site].signing_key) for site in sorted(self.sites))
        return FederationRoster(
            federation=self.federation,
            version=self.roster_version,
            issued_utc=self.roster_utc,
            coordinator_key=self.coordinator.signing_key,
            members=members,
        )

    def revocations(self) -> RevocationList | None:
        """The deny-list that follows from what was revoked; None where nothing ever was."""
        if self.revoked_version == 0:
            return None
        return RevocationList(
            federation=self.federation,
            version=self.revoked_version,
            issued_utc=self.revoked_utc,
            serials=tuple(sorted({certificate.serial for certificate in self.revoked})),
            keys=tuple(sorted(set(self.revoked_keys))),
        )


def load_state(folder: Path) -> RegistrarState:
    """Read a registrar's state.

    Raises:
        ConfigError: there is none, or it is not one.
    """
    path = folder / STATE_FILE
    if not path.exists():
        raise ConfigError(f"{folder} is not a registrar's folder", cure="make one with `fedmentor federation init`")
    try:
        return RegistrarState.model_validate_json(read_bounded(path, MAX_STATE_BYTES, "restore it from a backup"))
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(f"{path} is wrong at {fault.name!r}: {fault.message}", cure="restore it from a backup") from error


def save_state(folder: Path, state: RegistrarState) -> None:
    """Replace a registrar's state.

    Raises:
        OSError: the disk refused; the old state is untouched.
    """
    write_atomically(folder / STATE_FILE, (state.model_dump_json(indent=2) + "\n").encode(), mode=0o600)
