"""Laying a checked kit out at a site: everything is on disk before the first file takes its place, and a second run goes on.

::

    FOLDER/kit/            the kit, letter for letter; replaced as a whole by a newer one
    FOLDER/node.toml       settings; made once, then they are the site's own and stay
    FOLDER/certificates/   authority, roster, deny-list; once the site has enrolled, the registrar's replies keep them current
    FOLDER/state/          the node's memory
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from fedmentor.disk import sync_path
from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.files import read_bounded
from fedmentor.identity.layout import CA_FILE, CERTIFICATE_FILE, SITES_FOLDER
from fedmentor.identity.reply import authority_fingerprint
from fedmentor.identity.revocation import read_revocations
from fedmentor.identity.roster import ROSTER_FILE, read_roster
from fedmentor.identity.signed import MAX_CA_BYTES, authorities_of
from fedmentor.kit.archive import PUBLIC_MODE, SECRET_MODE
from fedmentor.kit.check import CheckedKit
from fedmentor.kit.contents import INVITE_FILE, MAX_RECORD_BYTES, RECORD_FILE, SETTINGS_FILE, SHARED_FILES, owner_of
from fedmentor.kit.settings import STANDARD_FOLDERS, with_folders
from fedmentor.models import write_atomically

KIT_FOLDER: Final = "kit"
SCRATCH: Final = ".kit-"
FOLDER_MODE: Final = 0o700

_OTHER_FOLDER: Final = "give another folder"


@dataclass(frozen=True)
class Laid:
    """Where things are now.

    Attributes:
        kit: folder with the kit's files.
        settings: the node's settings.
        certificates: the certificates folder.
        kept: what was there already and stayed as it was.
    """

    kit: Path
    settings: Path
    certificates: Path
    kept: tuple[str, ...]


def lay(kit: CheckedKit, folder: Path) -> Laid:
    """Put a kit's files in their places.

    Raises:
        ConfigError: the folder belongs to another site, federation or user, or to something else.
        IdentityRefused: nobody compared who signed the kit, and it is not an authority that the site has.
        OSError: the disk refused; nothing has taken its place. Where a rename failed, run it again.
    """
    folder = folder.absolute()
    _check_owner(folder)
    _check_place(kit, folder)
    certificates, settings = folder / STANDARD_FOLDERS["certificates"], folder / SETTINGS_FILE
    shared = _wanted_documents(kit, certificates)
    kept = [] if shared else [STANDARD_FOLDERS["certificates"]]
    kept += [SETTINGS_FILE] if settings.exists() else []
    with _made(folder), _alone(folder), TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        stage = Path(scratch)
        fresh = _staged(kit, stage, folder)
        for name in shared:
            (fresh / name).replace(certificates / name)
        if not settings.exists():
            (fresh / SETTINGS_FILE).replace(settings)
        # Last: a kit folder that is there says that everything is.
        with suppress(FileNotFoundError):
            (folder / KIT_FOLDER).replace(stage / "old")
        (stage / KIT_FOLDER).replace(folder / KIT_FOLDER)
        sync_path(certificates)
        sync_path(folder)
    return Laid(folder / KIT_FOLDER, settings, certificates, tuple(kept))


def _check_owner(folder: Path) -> None:
    """Keep root out of a folder of another user: it would follow that user's links, and leave what that user cannot read.

    Raises:
        ConfigError: it is one.
    """
    owner = next(place for place in (folder, *folder.parents) if place.exists()).stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        raise ConfigError(f"{folder} is in the hands of user {owner}", cure=f"run the same as that user: sudo -u '#{owner}' …")


def _check_place(kit: CheckedKit, folder: Path) -> None:
    """Refuse a folder whose kit, or whose authority, is another one's.

    Raises:
        ConfigError: it is, or the kit that is there is newer.
        IdentityRefused: see lay.
    """
    record = folder / KIT_FOLDER / RECORD_FILE
    if (folder / KIT_FOLDER).exists():
        owner = owner_of(read_bounded(record, MAX_RECORD_BYTES, _OTHER_FOLDER)) if record.is_file() else None
        if owner is None:
            raise ConfigError(f"{folder / KIT_FOLDER} is something else than a kit", cure=_OTHER_FOLDER)
        if owner != (kit.record.federation, kit.record.site):
            raise ConfigError(f"{folder} is the place of site {owner[1]} of {owner[0]}", cure=_OTHER_FOLDER)
        if _has_newer(kit, folder / KIT_FOLDER):
            raise ConfigError(
                f"the kit is older than the one in {folder / KIT_FOLDER}",
                cure="use the newer one, or ask the registrar for another",
            )
    ca_file = folder / STANDARD_FOLDERS["certificates"] / CA_FILE
    if ca_file.exists():
        installed = authorities_of(read_bounded(ca_file, MAX_CA_BYTES, _OTHER_FOLDER), str(ca_file))
        if set(installed).isdisjoint(authorities_of(kit.files[CA_FILE], "the kit's ca.pem")):
            raise ConfigError(f"{ca_file} is of another authority than the kit", cure="give another folder, and enrol there")
        # Anybody can put the authority that is known here into a bundle of his own: only who signed the kit counts.
        if not kit.compared and kit.authorities[0] not in map(authority_fingerprint, installed):
            raise IdentityRefused(
                f"the kit was signed by authority {kit.authorities[0]}, which {ca_file} does not have",
                cure="compare it with the registrar by telephone and give it with --authority",
            )


def _wanted_documents(kit: CheckedKit, certificates: Path) -> list[str]:
    """Documents that are to be written: none where the site has enrolled, or has newer ones."""
    if (certificates / SITES_FOLDER / kit.record.site / CERTIFICATE_FILE).exists() or _has_newer(kit, certificates):
        return []
    return [name for name in SHARED_FILES if name in kit.files]


def _has_newer(kit: CheckedKit, folder: Path) -> bool:
    """Whether a newer roster or deny-list than the kit's lies in a folder."""
    if not (folder / ROSTER_FILE).exists():
        return False
    try:
        roster, revoked = read_roster(folder, None), read_revocations(folder, None)
    except (ConfigError, IdentityRefused):  # half of another set, as after a crash
        return False
    versions = [(roster.version, kit.roster.version), tuple(0 if one is None else one.version for one in (revoked, kit.revoked))]
    return any(there > new for there, new in versions)


def _staged(kit: CheckedKit, stage: Path, folder: Path) -> Path:
    """Write everything below ``stage``; gives the folder with what goes elsewhere than to the kit's own."""
    whole, fresh = stage / KIT_FOLDER, stage / "fresh"
    for place in (whole, fresh):
        place.mkdir(mode=FOLDER_MODE)
    for name, data in sorted(kit.files.items()):
        write_atomically(whole / name, data, mode=SECRET_MODE if name == INVITE_FILE else PUBLIC_MODE)
    for name in SHARED_FILES:
        if name in kit.files:
            write_atomically(fresh / name, kit.files[name], mode=PUBLIC_MODE)
    settings = with_folders(kit.files[SETTINGS_FILE].decode(), folder)
    write_atomically(fresh / SETTINGS_FILE, settings.encode(), mode=PUBLIC_MODE)
    return fresh


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else lays a kit out in the folder meanwhile; what a run that was killed left is gone.

    Raises:
        ConfigError: somebody does.
    """
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another kit is being laid out in {folder}", cure="wait for it, then run this again") from None
        for left in folder.glob(f"{SCRATCH}*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        os.close(place)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder and those in it; what was made here is gone again when something fails, as long as nothing has its place in it."""
    places = [*(folder / name for name in STANDARD_FOLDERS.values()), folder, *folder.parents]
    missing = [place for place in places if not place.exists()]
    try:
        for place in reversed(missing):
            place.mkdir(mode=FOLDER_MODE, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
        raise
