"""The authority's private keys, in files of mode 0600, under a passphrase if the registrar wants one (PKCS #8, PBES2)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedmentor.errors import ConfigError
from fedmentor.identity.authority import Authority
from fedmentor.identity.credentials import load_certificate
from fedmentor.identity.files import read_bounded
from fedmentor.identity.keys import MAX_KEY_FILE_BYTES, spki
from fedmentor.identity.signed import MAX_CA_BYTES
from fedmentor.models import write_atomically

MAX_PASSPHRASE_BYTES: Final = 1024

_RESTORE: Final = "restore the registrar's folder from a backup"


def read_passphrase(path: Path | None) -> bytes | None:
    """The first line of a passphrase file; None where there is no file.

    Raises:
        ConfigError: it cannot be read, is empty, or is over MAX_PASSPHRASE_BYTES.
    """
    if path is None:
        return None
    passphrase = read_bounded(path, MAX_PASSPHRASE_BYTES, "give a file with the passphrase in its first line").partition(b"\n")[0]
    if not passphrase.strip():
        raise ConfigError(f"{path} holds no passphrase", cure="write it into the file's first line")
    return passphrase.rstrip(b"\r")


def save_authority(folder: Path, number: int, authority: Authority, passphrase: bytes | None) -> None:
    """Write an authority's key, then its certificate.

    Raises:
        ConfigError: one of that number is there already.
        OSError: the disk refused.
    """
    key_file = _key_file(folder, number)
    if key_file.exists():
        raise ConfigError(f"{key_file} exists; a key is never overwritten", cure="move it away if no certificate was made with it")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    write_atomically(key_file, authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
    write_atomically(_certificate_file(folder, number), authority.pem)


def authority_pem(folder: Path, number: int) -> bytes:
    """An authority's certificate.

    Raises:
        ConfigError: it cannot be read.
    """
    return read_bounded(_certificate_file(folder, number), MAX_CA_BYTES, _RESTORE)


def load_authority(folder: Path, number: int, federation: str, passphrase: bytes | None) -> Authority:
    """Read an authority with its key.

    Raises:
        ConfigError: a file is missing or not what it should be, or the passphrase is missing or wrong.
    """
    key_file, certificate_file = _key_file(folder, number), _certificate_file(folder, number)
    pem = read_bounded(key_file, MAX_KEY_FILE_BYTES, _RESTORE)
    encrypted = b"ENCRYPTED" in pem.partition(b"\n")[0]
    if encrypted and passphrase is None:
        raise ConfigError(f"{key_file} is under a passphrase", cure="give --passphrase-file")
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "the passphrase does not open" if encrypted else "no PEM key is in"
        raise ConfigError(f"{why} {key_file}", cure="give the right --passphrase-file" if encrypted else _RESTORE) from error
    certificate = load_certificate(authority_pem(folder, number), str(certificate_file))
    public = certificate.public_key()
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or not isinstance(public, ec.EllipticCurvePublicKey)
        or spki(key.public_key()) != spki(public)
    ):
        raise ConfigError(f"the key {key_file} does not belong to {certificate_file}", cure=_RESTORE)
    return Authority(federation, certificate, key)


def forget_authority(folder: Path, number: int) -> None:
    """Delete a retired authority's private key; its certificate stays for the record.

    Raises:
        OSError: the disk refused.
    """
    _key_file(folder, number).unlink(missing_ok=True)


def _key_file(folder: Path, number: int) -> Path:
    return folder / f"authority-{number}.key.pem"


def _certificate_file(folder: Path, number: int) -> Path:
    return folder / f"authority-{number}.pem"
