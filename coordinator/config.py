"""Settings of a coordinator's operator: frozen, from TOML or arguments; unknown keys are refused; units stand in the names.

The rules of a run are not here but in its manifest, which the sites pin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from coordinator.phases.phase import PhaseLimits
from fedmentor.errors import ConfigError
from fedmentor.settings import beside, first_fault, port_of, read_toml


def _address(text: str) -> str:
    if port_of(text) is None:
        raise ValueError("expected HOST:PORT")
    return text


class CoordinatorSettings(BaseModel):
    """How one coordinator runs.

    Attributes:
        manifest: the run's rules, JSON.
        model: folder of model 0.
        state: folder for journal, spool, models and report; one coordinator at a time.
        certificates: folder with ``ca.pem`` and ``coordinator/``.
        registrar: ``host:port`` where the registrar takes requests; None: files are carried, or `coordinator renew` is called.
        listen: ``host:port``; port 0 takes a free one.
        metrics_port: Prometheus metrics; 0 takes a free port, None has none.
        metrics_host: address or name that they are served on; they are not encrypted, so keep it loopback or a private network.
        dashboard_port, dashboard_host: the same for the dashboard, whose address serves the metrics, too; see docs/dashboard.md.
        dashboard_names: further names that browsers may ask by, e.g. that of a reverse proxy; other names than these, ``localhost``
            and the two hosts are refused.
        ready_file: written with the bound address once sites can connect.
        log_file: where events go; None is standard error.
        gather_seconds, straggler_grace_seconds, linger_seconds: see coordinator.phases.phase.PhaseLimits.
        stay: go on serving once the run is over, until a signal comes: sites that come late are told, metrics can be read.
        stop_grace_seconds: how long calls under way may go on when the coordinator stops.
        calls_per_site: concurrent calls of one site, streams included.
        uploads_per_site: concurrent uploads of one site.
        transfer_seconds: longest time of one model or update transfer; a site goes on where it ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Path
    model: Path
    state: Path
    certificates: Path
    registrar: Annotated[str, AfterValidator(_address)] | None = None
    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8443"
    metrics_port: int | None = Field(None, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"
    dashboard_port: int | None = Field(None, ge=0, le=65535)
    dashboard_host: str = "127.0.0.1"
    dashboard_names: tuple[str, ...] = ()
    ready_file: Path | None = None
    log_file: Path | None = None
    gather_seconds: float = Field(86_400.0, gt=0)
    straggler_grace_seconds: float = Field(30.0, ge=0)
    linger_seconds: float = Field(30.0, ge=0)
    stay: bool = False
    stop_grace_seconds: float = Field(5.0, ge=0)
    calls_per_site: int = Field(8, ge=2)
    uploads_per_site: int = Field(2, ge=1)
    transfer_seconds: float = Field(600.0, gt=0)

    @property
    def limits(self) -> PhaseLimits:
        """The phases' part."""
        return PhaseLimits(self.gather_seconds, self.straggler_grace_seconds, self.linger_seconds)


_PATHS = ("manifest", "model", "state", "certificates", "ready_file", "log_file")


def settings_of(file: Path | None, arguments: dict[str, Any]) -> CoordinatorSettings:
    """Settings from a TOML file and arguments; an argument that is not None wins.

    Paths in the file are relative to the file, paths in arguments to the working folder.

    Raises:
        ConfigError: unreadable, or a key is unknown, missing or out of range.
    """
    values = {} if file is None else beside(file, read_toml(file), _PATHS)
    values |= {key: value for key, value in arguments.items() if value is not None}
    try:
        return CoordinatorSettings.model_validate(values)
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(
            f"coordinator setting {fault.name!r}: {fault.message}", cure="see `fedmentor coordinator run --help`"
        ) from error
