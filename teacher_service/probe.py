"""Does the teacher of a run folder answer a prediction? Ends with 0 if it does, else with 1.

A real prediction on a tiny picture: whatever may be dead, the front end, the worker or the network in it, this notices. After the
first time it costs a decode.

Run as ``python -m teacher_service.probe RUN_FOLDER``; imports nothing heavy, because it is started twice a minute.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from fedmentor.teacher.endpoint import Endpoint, pace_at, read_endpoint, read_token

TINY_PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR4AWNgoA4AAABIAAE8O4AtAAAAAElFTkSuQmCC")
"""Eight black pixels square, the smallest picture that a teacher takes."""

_BOUNDARY = "fedmentor-probe"
_CIPHERS = "ECDHE+AESGCM:ECDHE-RSA-AES128-SHA"


def main() -> int:
    """Ask once."""
    try:
        return 0 if answers(read_endpoint(Path(sys.argv[1]))) else 1
    except Exception:  # noqa: BLE001  # whatever is wrong with it, it does not answer
        return 1


def answers(endpoint: Endpoint) -> bool:
    """Whether a prediction comes back.

    Raises:
        OSError, http.client.HTTPException, TeacherUnreachable: nothing listens, or no token.
    """
    where = urlsplit(endpoint.url)
    assert where.hostname is not None  # noqa: S101  # this package wrote it
    probe_s = pace_at(endpoint).probe_s
    if endpoint.ca_file is None:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=probe_s)
    else:
        context = ssl.create_default_context(cafile=str(endpoint.ca_file))
        context.set_ciphers(_CIPHERS)
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=probe_s, context=context)
    headers = {
        "Authorization": f"Bearer {read_token(endpoint.key_file)}",
        "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
    }
    with contextlib.closing(connection):
        connection.request("POST", "/predictions/teacher", _form(), headers)
        response = connection.getresponse()
        response.read()
    return response.status == http.client.OK


def _form() -> bytes:
    """The picture and its prompt as multipart/form-data (RFC 7578)."""
    prompt = json.dumps({"auto": "whole"}).encode()
    parts = (
        (b'name="image"; filename="tiny.png"\r\nContent-Type: image/png', TINY_PNG),
        (b'name="prompt"\r\nContent-Type: application/json', prompt),
    )
    edge = _BOUNDARY.encode()
    body = b"".join(
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (edge, header, content) for header, content in parts
    )
    return body + b"--%s--\r\n" % edge


if __name__ == "__main__":
    sys.exit(main())
