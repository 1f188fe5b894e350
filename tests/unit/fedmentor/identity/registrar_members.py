"""Who takes part in the tests of the registrar, and where."""

from fedmentor.identity.names import Peer
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown

NAME = "fed.example"
COORDINATOR, NORTH, SOUTH = Peer(NAME, None), Peer(NAME, SiteId("north")), Peer(NAME, SiteId("south"))


def town(folder, passphrase=None):
    """A registrar, and room for its members."""
    return RegistrarTown(folder, ManualClock(), passphrase=passphrase)


def files(folder):
    """All files in a folder, by their names in it."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
