"""Whose signatures count in an audit trail, and this end's own key: the one module here that reads files."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmentor.audit.checkpoint import AuditKeys
from fedmentor.errors import ConfigError
from fedmentor.identity.keys import raw_public, read_signing_key
from fedmentor.identity.layout import COORDINATOR_FOLDER, SIGNING_KEY_FILE, SITES_FOLDER
from fedmentor.identity.roster import ROSTER_FILE, FederationRoster, read_roster
from fedmentor.ids import SiteId


def keys_of(roster: FederationRoster) -> AuditKeys:
    """The keys of everybody on a roster."""
    sites = {member.site: member.signing_key for member in roster.members}
    return AuditKeys(roster.federation, roster.coordinator_key, sites)


def has_roster(folder: Path) -> bool:
    """Whether a certificates folder has a signed roster; one that an older version made has none."""
    return (folder / ROSTER_FILE).exists()


def read_audit_keys(folder: Path) -> AuditKeys:
    """The keys on the signed roster of a certificates folder.

    Raises:
        ConfigError, IdentityRefused: see read_roster.
    """
    return keys_of(read_roster(folder))


def coordinator_signing_key(folder: Path, keys: AuditKeys) -> Ed25519PrivateKey:
    """The coordinator's own key, which must be the one on the roster.

    Raises:
        ConfigError: missing, not a key, or another one.
    """
    return _own_key(folder / COORDINATOR_FOLDER / SIGNING_KEY_FILE, keys.coordinator)


def site_signing_key(folder: Path, site: SiteId, keys: AuditKeys) -> Ed25519PrivateKey:
    """A site's own key, which must be the one on the roster.

    Raises:
        ConfigError: missing, not a key, or another one; or the site is not on the roster.
    """
    return _own_key(folder / SITES_FOLDER / site / SIGNING_KEY_FILE, keys.sites.get(site))


def _own_key(path: Path, expected: bytes | None) -> Ed25519PrivateKey:
    key = read_signing_key(path)
    if raw_public(key) != expected:
        raise ConfigError(
            f"{path} is not the key that stands on the federation's roster",
            cure="get the current roster from the registrar, or enrol again",
        )
    return key
