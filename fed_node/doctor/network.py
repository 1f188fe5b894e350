"""The way to the coordinator: proxy, name, port, TLS, clock. Pure; fed_node.doctor.probe gathers the facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fed_node.doctor.finding import Finding, fault, good, note, warning
from fed_node.doctor.identity import Lifetime, dates
from fedmentor.errors import EXIT_PEER, EXIT_POLICY
from fedmentor.identity.authority import CLOCK_LEEWAY

_SET_CLOCK = "set the clock, best by NTP (chrony, timesyncd)"

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")


@dataclass(frozen=True)
class Answer:
    """Who answered a TLS handshake, and whether the two ends accept each other.

    Attributes:
        uris, hosts: identities in the certificate of who answered.
        issuer: who issued that certificate.
        life: its dates.
        refusal: why this site does not accept it; empty where it does.
        accepted: whether the other end accepted this site's certificate; None where that is not known.
    """

    uris: tuple[str, ...]
    hosts: tuple[str, ...]
    issuer: str
    life: Lifetime
    refusal: str = ""
    accepted: bool | None = None


@dataclass(frozen=True)
class Way:
    """What was found on the way to the coordinator; a stage that was not reached is None or empty.

    Attributes:
        target: ``host:port`` that was dialled: the proxy's where one is configured.
        addresses: what the target's name resolves to.
        problem: the stage that failed (``dns``, ``port``, ``proxy``, ``tls``) and what was said.
        date: the clock of the proxy, if it told.
        answer: who answered.
    """

    target: str
    addresses: tuple[str, ...] = ()
    problem: tuple[str, str] | None = None
    date: datetime | None = None
    answer: Answer | None = None

    @property
    def welcome(self) -> bool:
        """Whether both ends accept each other, so that a call can be made."""
        return self.answer is not None and not self.answer.refusal and self.answer.accepted is True


@dataclass(frozen=True)
class Witnesses:
    """Other machines' clocks, read just now, in UTC; None where one does not tell."""

    coordinator: datetime | None = None
    proxy: datetime | None = None


def proxy(configured: str | None, environment: Mapping[str, str]) -> Finding:
    """Which proxy is used; variables of the environment are not."""
    lower = {name.lower() for name, value in environment.items() if value}
    variables = [name for name in PROXY_VARIABLES if name in lower]
    if configured is not None:
        return good("proxy", f"the coordinator is reached through {configured}")
    if variables:
        return note(
            "proxy",
            f"{', '.join(variables)} in the environment: ignored; the coordinator is dialled directly",
            'set proxy = "HOST:PORT" in the node\'s settings if only a proxy gets out',
        )
    return good("proxy", "none; the coordinator is dialled directly")


def way(found: Way, coordinator: str, proxy_used: str | None) -> list[Finding]:
    """Name, port and proxy, as far as the way goes."""
    stage, said = found.problem or ("", "")
    name = found.target.rpartition(":")[0]
    if stage == "dns":
        cure = "check the name, and this machine's DNS servers" + (
            "" if proxy_used else "; behind a proxy set proxy in the settings"
        )
        return [fault("dns", f"{name} has no address: {said}", cure, EXIT_PEER)]
    findings = [good("dns", f"{name} is {', '.join(found.addresses)}")]
    if stage == "port":
        cure = "check host and port, and that the firewall lets this machine out"
        return [*findings, fault("port", f"{found.target} does not accept a connection: {said}", cure, EXIT_PEER)]
    findings.append(good("port", f"{found.target} accepts connections"))
    if stage == "proxy":
        cure = f"have the proxy allow CONNECT to {coordinator}"
        return [*findings, fault("proxy", f"{found.target} does not connect to {coordinator}: {said}", cure, EXIT_PEER)]
    if proxy_used is not None:
        findings.append(good("proxy", f"{proxy_used} connects to {coordinator}"))
    return findings


def tls(found: Way, expected: str, now: datetime) -> list[Finding]:
    """Who answers, and whether both ends accept each other.

    Args:
        found: the way; without an answer where it did not get that far.
        expected: the DNS name that the coordinator's certificate must carry.
        now: in UTC.
    """
    answer = found.answer
    if answer is None:
        if found.problem is None or found.problem[0] != "tls":
            return []
        cure = "something in between breaks TLS, or no coordinator listens there; ask for an exemption from TLS inspection"
        return [fault("tls", f"no handshake with {found.target}: {found.problem[1]}", cure, EXIT_PEER)]
    if expected not in answer.hosts:
        cure = "check the address; if a proxy or firewall answers in its place, ask for an exemption from TLS inspection"
        who = ", ".join((*answer.uris, *answer.hosts)) or "nobody by name"
        return [fault("tls", f"{who} answers (issued by {answer.issuer}), expected {expected}", cure, EXIT_POLICY)]
    life = dates("coordinator", "the coordinator's certificate", answer.life, now, "tell the coordinator's operator")
    if answer.refusal:
        cure = "get the federation's current ca.pem from the registrar, and check this machine's clock"
        return [life, fault("tls", f"{expected} answers, but its certificate is refused: {answer.refusal}", cure, EXIT_POLICY)]
    findings = [life, good("tls", f"{expected} answers, and its certificate is good")]
    if answer.accepted is False:
        cure = "renew this site's certificate, or ask the registrar"
        findings.append(fault("tls", "the coordinator refuses this site's certificate", cure, EXIT_POLICY))
    elif answer.accepted is None:
        findings.append(note("tls", "the coordinator did not say whether it takes this site's certificate"))
    else:
        findings.append(good("tls", "the coordinator takes this site's certificate"))
    return findings


def registrar(address: str, problem: str) -> Finding:
    """Whether the registrar, who renews certificates, can be reached; a run goes on without it for a while."""
    if problem:
        cure = "check host, port, firewall and proxy; until then bring certificates by hand (docs/identity.md, Renew)"
        return warning("registrar", f"{address} cannot be reached: {problem}", cure)
    return good("registrar", f"{address} accepts connections")


def clock(now: datetime, past: Sequence[tuple[str, datetime]], witnesses: Witnesses = Witnesses()) -> Finding:
    """Whether this machine's clock can be right.

    The coordinator is who it says and a proxy is anybody, so a proxy is believed only where the coordinator does not tell. A
    coordinator that tells has taken this site's certificate, so a difference is not in the way yet: it will be with a certificate
    that is new, or near its end.

    Args:
        now: of this machine, in UTC.
        past: what has happened already, so that no clock may be before it.
        witnesses: what others say.
    """
    theirs, witness = witnesses.coordinator, witnesses.coordinator or witnesses.proxy
    if theirs is not None and abs(now - theirs) > CLOCK_LEEWAY:
        return warning(
            "clock", f"it is {_span(now - theirs)} the coordinator's", f"{_SET_CLOCK}, or tell the coordinator's operator"
        )
    if witness is not None and abs(now - witness) > CLOCK_LEEWAY:
        return fault("clock", f"it is {_span(now - witness)} another machine's", _SET_CLOCK)
    latest = max(past, key=lambda item: item[1], default=None)
    if latest is not None and now < latest[1] - CLOCK_LEEWAY:
        what = f"it is at least {_span(now - latest[1])} the time of {latest[0]}"
        return fault("clock", what, _SET_CLOCK)
    if witness is None:
        return good("clock", f"{now:%Y-%m-%d %H:%M} UTC, after everything that is known to have happened")
    whose = "the coordinator's" if theirs is not None else "another machine's"
    return good("clock", f"{now:%Y-%m-%d %H:%M} UTC, within {CLOCK_LEEWAY.seconds // 60} minutes of {whose}")


def _span(difference: timedelta) -> str:
    side = "behind" if difference < timedelta(0) else "ahead of"
    size = abs(difference)
    return f"{size.days} days {side}" if size.days else f"{round(size.total_seconds() / 60)} minutes {side}"
