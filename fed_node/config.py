"""The settings of one site's node, read once: a TOML file, command-line arguments over it, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fed_node.data.export_rules import ExportRules
from fed_node.rules import PlanLimits
from fedmentor.errors import ConfigError
from fedmentor.ids import SiteId, site_id
from fedmentor.settings import Fault, beside, first_fault, port_of, read_toml


def _site(text: str) -> SiteId:
    try:
        return site_id(text)
    except ConfigError as error:
        raise ValueError(error.message) from error


def _address(text: str) -> str:
    if not port_of(text):  # nobody dials port 0
        raise ValueError("expected HOST:PORT")
    return text


class DicomConfig(BaseModel):
    """What of a PACS export is used, where ``data`` is one; see fed_node.data.export_rules.ExportRules.

    Attributes:
        modalities: values of Modality that are radiographs here.
        held_out: share of the patients whose images are held out for scoring.
        automatic_masks: take masks that a program drew for the truth, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] = Field(ExportRules.modalities, min_length=1)
    held_out: float = Field(ExportRules.held_out, gt=0, lt=1)
    automatic_masks: bool = ExportRules.automatic_masks

    @property
    def rules(self) -> ExportRules:
        """The same as a plain value."""
        return ExportRules(self.modalities, self.held_out, self.automatic_masks)


class NodeConfig(BaseModel):
    """One site's node.

    Attributes:
        site: this site's name; the certificate must carry the same.
        coordinator: ``host:port``; whoever answers there must have the certificate of this federation's coordinator.
        certificates: folder with ``ca.pem`` and ``sites/SITE/{certificate,key}.pem``.
        data: dataset folder whose table has a column ``split`` (``train`` or ``held_out``), or a PACS export (no metadata.csv).
        state: the node's own folder: outbox and lock. Keep it between starts.
        proxy: ``host:port`` of the HTTP proxy through which the coordinator is reached; proxies in the environment are ignored.
        registrar: ``host:port`` where the registrar renews certificates; None: files are carried, or `node renew` is called.
        dicom: what of a PACS export is used.
        threads: CPU threads for training; processes that share cores must share them out.
        give_up_seconds: how long the coordinator may be unreachable before the node ends with exit code 5.
        first_retry_seconds, longest_retry_seconds: bounds of the doubling pause between tries.
        max_rounds, max_local_epochs: most that a run may ask of this site.
        min_quorum: fewest sites behind a model that this site wants to be part of.
        require_privacy: take part in runs with a privacy plan only.
        require_secure: take part in runs with secure aggregation only.
        require_approval: take part in runs only whose manifest the registrar signed.
        max_epsilon: most that any patient of this site may spend over all runs, at ``privacy_delta``.
        privacy_delta: fixed with the first entry of the site's ledger; well under one over the number of patients.
        ledger_anchor: file that notes the ledger's head, on another disk than ``state``; a restored backup of ``state`` is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Annotated[str, AfterValidator(_site)]
    coordinator: Annotated[str, AfterValidator(_address)]
    certificates: Path
    data: Path
    state: Path
    proxy: Annotated[str, AfterValidator(_address)] | None = None
    registrar: Annotated[str, AfterValidator(_address)] | None = None
    dicom: DicomConfig = DicomConfig()
    threads: int = Field(1, ge=1, le=1024)
    give_up_seconds: float = Field(600.0, gt=0)
    first_retry_seconds: float = Field(0.5, gt=0)
    longest_retry_seconds: float = Field(30.0, gt=0)
    max_rounds: int = Field(10_000, ge=1)
    max_local_epochs: int = Field(100, ge=1)
    min_quorum: int = Field(2, ge=1)
    require_privacy: bool = False
    require_secure: bool = False
    require_approval: bool = False
    max_epsilon: float = Field(8.0, gt=0, le=100)
    privacy_delta: float = Field(1e-5, gt=0, le=1e-2)
    ledger_anchor: Path | None = None

    @property
    def site_id(self) -> SiteId:
        """The site's checked name."""
        return SiteId(self.site)

    @property
    def limits(self) -> PlanLimits:
        """What a manifest may ask for."""
        return PlanLimits(
            rounds=self.max_rounds,
            local_epochs=self.max_local_epochs,
            quorum=self.min_quorum,
            privacy_required=self.require_privacy,
            secure_required=self.require_secure,
            approval_required=self.require_approval,
        )


_PATHS = ("certificates", "data", "state", "ledger_anchor")


def node_config(file: Path | None, arguments: Mapping[str, Any]) -> NodeConfig:
    """Settings from a file and from arguments; an argument that is not None wins.

    Paths in the file are relative to the file, paths in arguments to the working folder.

    Raises:
        ConfigError: names the first missing, unknown or wrong setting.
    """
    values = {} if file is None else beside(file, read_toml(file), _PATHS)
    values |= {name: value for name, value in arguments.items() if value is not None}
    try:
        return NodeConfig.model_validate(values)
    except ValidationError as error:
        raise _refusal(first_fault(error), file) from error


def _refusal(fault: Fault, file: Path | None) -> ConfigError:
    where = f" in {file}" if file is not None else ""
    match fault.kind:
        case "missing":
            return ConfigError(f"the node's setting {fault.name!r} is missing", cure=f"add it to the file or give {fault.option}")
        case "extra_forbidden":
            return ConfigError(f"{fault.name!r}{where} is not a setting of the node", cure="remove it, or look for a typing error")
        case _:
            return ConfigError(
                f"the node's setting {fault.name!r}{where} is wrong: {fault.message}", cure="see docs/node.md, Settings"
            )
