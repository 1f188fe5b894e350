"""Who this site is to the others: certificate, keys, authority, roster, deny-list. Pure but for ``identity_findings``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from fed_node.doctor.finding import Finding, Level, fault, fault_of, good, note, warning
from fedmentor.audit.keys import has_roster, keys_of, site_signing_key
from fedmentor.errors import EXIT_POLICY, FedMentorError
from fedmentor.identity.credentials import load_certificate, peer_of_certificate, site_credentials
from fedmentor.identity.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, SIGNING_KEY_FILE, SITES_FOLDER
from fedmentor.identity.revocation import RevocationList, read_revocations
from fedmentor.identity.roster import FederationRoster, read_roster
from fedmentor.identity.signed import authorities_of
from fedmentor.ids import SiteId

RENEW_SHARE = 0.25
"""Of a certificate's life: with less than this left a renewal is late."""

RENEW = "renew it with 'fedmentor node renew', or ask the registrar"


@dataclass(frozen=True)
class Lifetime:
    """When a certificate is valid, in UTC."""

    begin: datetime
    end: datetime


def lifetime_of(certificate: x509.Certificate) -> Lifetime:
    """The dates of a certificate."""
    return Lifetime(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def dates(check: str, name: str, life: Lifetime, now: datetime, cure: str = RENEW) -> Finding:
    """Whether a certificate is valid for a good while yet."""
    left = life.end - now
    what = f"{name} is valid until {life.end:%Y-%m-%d %H:%M} UTC"
    if left <= timedelta(0):
        return fault(check, f"{name} expired on {life.end:%Y-%m-%d %H:%M} UTC", f"{cure}; check this machine's clock, too")
    if now < life.begin:
        return fault(check, f"{name} is not valid before {life.begin:%Y-%m-%d %H:%M} UTC", "check this machine's clock")
    if left < (life.end - life.begin) * RENEW_SHARE:
        return warning(check, f"{what}, {_days(left)} from now", cure)
    return good(check, what)


def modes(found: Mapping[Path, int]) -> list[Finding]:
    """Whether private keys are closed to everybody else.

    Args:
        found: permission bits of each key file.
    """
    return [
        fault("keys", f"{path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
        for path, mode in sorted(found.items())
        if mode & 0o077
    ]


def membership(roster: FederationRoster, federation: str, site: SiteId) -> Finding:
    """Whether this site stands on its federation's roster."""
    if roster.federation != federation:
        return fault("roster", f"the roster is that of {roster.federation}, the certificate is of {federation}", RENEW, EXIT_POLICY)
    if roster.find(site) is None:
        return fault("roster", f"site {site} does not stand on it (version {roster.version})", "ask the registrar", EXIT_POLICY)
    return good("roster", f"version {roster.version} of {roster.issued_utc[:10]}, {len(roster.members)} sites, this one among them")


def revocation(revoked: RevocationList | None, certificate: x509.Certificate) -> Finding:
    """Whether the authority takes back its word about this certificate."""
    if revoked is not None and revoked.covers(certificate):
        return fault(
            "revocation", "this site's certificate is on the deny-list", "ask the registrar to enrol this site anew", EXIT_POLICY
        )
    return good("revocation", "this site's certificate is not on the deny-list" if revoked else "there is no deny-list here")


def identity_findings(folder: Path, site: SiteId, now: datetime) -> list[Finding]:
    """Read the certificates folder and judge it; makes nothing.

    Args:
        folder: with ``ca.pem`` and ``sites/SITE/``.
        site: this site.
        now: in UTC.
    """
    place = folder / SITES_FOLDER / site
    keys = [place / name for name in (KEY_FILE, SIGNING_KEY_FILE) if (place / name).is_file()]
    findings = modes({path: path.stat().st_mode & 0o777 for path in keys})
    try:
        pem = site_credentials(folder, site, now).certificate
        certificate = load_certificate(pem, CERTIFICATE_FILE)
        findings.append(good("certificate", f"that of site {site}, with its key, issued by the authority in {folder / CA_FILE}"))
        findings.append(dates("certificate", f"the certificate of site {site}", lifetime_of(certificate), now))
        for authority in authorities_of((folder / CA_FILE).read_bytes(), str(folder / CA_FILE)):
            findings.append(dates("authority", "the authority's certificate", lifetime_of(authority), now))
        findings.append(revocation(read_revocations(folder, None), certificate))
        findings += _roster_findings(folder, site, peer_of_certificate(pem).federation)
    except FedMentorError as error:
        findings.append(fault_of("certificate", error))
    return findings


def _roster_findings(folder: Path, site: SiteId, federation: str) -> list[Finding]:
    if not has_roster(folder):
        return [note("roster", f"there is none in {folder}: this site takes no part in secure aggregation and audits", RENEW)]
    roster = read_roster(folder, None)
    finding = membership(roster, federation, site)
    if finding.level is Level.FAULT:
        return [finding]
    site_signing_key(folder, site, keys_of(roster))
    return [finding, good("signing", "the site's signing key is the one on the roster")]


def _days(span: timedelta) -> str:
    return f"{span.days} days" if span.days else f"{span.seconds // 3600} hours"
