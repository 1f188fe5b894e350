"""Words of the audit trail that both ends and every reader must know; docs/audit.md lists all events and their fields."""

from __future__ import annotations

from typing import Final

from fedmentor.ids import SiteId

COORDINATOR: Final = "coordinator"
"""Actor of what the coordinator does by itself."""

CREATE_EVENT: Final = "create_run"
"""The first record of every chain; names run, manifest, model 0 and roster."""

ACCEPT_EVENT: Final = "accept_update"
"""A site's update is on the coordinator's disk; names round, attempt and SHA-256."""

PUBLISH_EVENT: Final = "publish_round"
"""A round's model came into force; names round and model."""

CHECKPOINT_EVENT: Final = "sign_checkpoint"
COUNTERSIGN_EVENT: Final = "countersign"
"""By these two the chain itself tells which signatures there are, so that none can be left out of an export unseen."""


def site_actor(site: SiteId) -> str:
    """Actor of what a site did."""
    return f"site {site}"
