"""Where a running teacher is: its URL and the file that holds its token.

``fedmentor teacher serve`` leaves ``teacher.json`` in its run folder, so that other commands find it. The file holds no secret.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from fedmentor.errors import ConfigError, TeacherUnreachable
from fedmentor.teacher.pace import Pace, read_pace

_NO_STATE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError)
"""What reading a state file may raise that is none."""

STATE_FILE = "teacher.json"
"""Name of the state file in a server's run folder; it exists while the server answers."""

DEFAULT_RUN_FOLDER = Path("runs/teacher")
"""Run folder of a server that was started without one."""

_START = "start one with 'fedmentor teacher serve', or pass --url and --key-file"


@dataclass(frozen=True)
class Endpoint:
    """A teacher that answers over REST or gRPC.

    Attributes:
        url: e.g. ``http://127.0.0.1:8080``, ``https://…``, ``grpc://127.0.0.1:7070`` or ``grpcs://…``.
        key_file: TorchServe's ``key_file.json``; read again whenever the token is refused, because tokens expire.
        ca_file: certificate to trust where the URL asks for TLS; None for the system's authorities.
        keeper_pid: process on this machine that starts the server again when it dies; None where nothing is known of one.
        pace: how long to wait for it; None for what the state file beside ``key_file`` says, if there is one.
    """

    url: str
    key_file: Path
    ca_file: Path | None = None
    keeper_pid: int | None = None
    pace: Pace | None = None

    @property
    def is_kept(self) -> bool:
        """Whether somebody may start a server again that does not answer any more."""
        if self.keeper_pid is None:
            return True
        try:
            os.kill(self.keeper_pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it lives, as somebody else
        return True


def read_endpoint(run_folder: Path, door: str = "url") -> Endpoint:
    """Find the teacher that runs in a folder.

    Args:
        run_folder: of the server.
        door: ``url`` for REST, ``grpc_url`` for gRPC.

    Raises:
        TeacherUnreachable: none was started there, or it has stopped.
    """
    path = run_folder / STATE_FILE
    try:
        state = json.loads(path.read_bytes())
        endpoint = Endpoint(str(state[door]), Path(state["key_file"]), None, int(state["keeper_pid"]), read_pace(state))
        return replace(endpoint, ca_file=Path(state["ca_file"])) if "ca_file" in state else endpoint
    except FileNotFoundError as error:
        raise TeacherUnreachable(f"no teacher is running in {run_folder}", cure=_START) from error
    except _NO_STATE as error:
        raise TeacherUnreachable(f"{path} is not a teacher's state file", cure=_START) from error


def pace_at(endpoint: Endpoint) -> Pace:
    """How long to wait for a teacher; the usual time where nothing is known of it."""
    if endpoint.pace is not None:
        return endpoint.pace
    try:
        return read_pace(json.loads((endpoint.key_file.parent / STATE_FILE).read_bytes()))
    except _NO_STATE:
        return Pace()


def read_token(key_file: Path) -> str:
    """The inference token that TorchServe wrote.

    Raises:
        TeacherUnreachable: the file is missing or not of that form.
    """
    try:
        return _header_text(json.loads(key_file.read_bytes())["inference"]["key"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TeacherUnreachable(
            f"the teacher's token cannot be read from {key_file}", cure="give the key_file.json of the running teacher"
        ) from error


def _header_text(token: object) -> str:
    """What may stand in an HTTP header (RFC 9110, section 5.5)."""
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise ValueError("not a token")
    return token
