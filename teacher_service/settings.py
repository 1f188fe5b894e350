"""TorchServe's settings, pure: from a few values to its configuration file, command line and environment.

Everything listens on loopback; only the inference doors may be told otherwise. Tokens are on, the model API is off, models come
from the store alone, archives install nothing: see config.properties.template.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from fedmentor.teacher.images import MAX_IMAGE_BYTES
from teacher_service.compute import FLOAT32
from teacher_service.payload import MAX_ANSWER_BYTES

HOST = "127.0.0.1"
SCHEME = "http"
"""TorchServe's own TLS is limited to 1.2 with two old ciphers at its REST door; on loopback it protects nothing."""

MODEL_NAME = "teacher"
"""The name under which TorchServe serves: ``POST /predictions/teacher``."""

RUN_FOLDER_VARIABLE = "FEDMENTOR_TEACHER_RUN"
"""Environment variable that tells the worker the run folder."""

EMBEDDINGS_VARIABLE = "FEDMENTOR_TEACHER_EMBEDDINGS"
"""Environment variable that tells the worker where to keep embeddings on disk; unset for memory only."""

PRECISION_VARIABLE = "FEDMENTOR_TEACHER_PRECISION"
"""Environment variable that tells the worker how exactly to compute (teacher_service.compute); unset for float32."""

REFUSAL_FILE = "refused.json"
"""Where, in the run folder, a worker that refuses its weights says why."""

STOPPING_FILE = "stopping"
"""In the run folder while a server is being stopped: its worker takes nothing more from the queue."""

KEY_FILE = "key_file.json"
PROPERTIES_FILE = "config.properties"
TEMPLATE_FILE = "config.properties.template"
LOGGING_FILE = "log4j2.xml"
CERTIFICATE_PEM = "tls-certificate.pem"
KEY_PEM = "tls-key.pem"
LOG_FOLDER = "logs"
TEMPORARY_FOLDER = "tmp"
STORE_FOLDER = "store"
CONSOLE_LOG = "console.log"
KEEPER_LOG = "keeper.log"

MAX_REQUEST_BYTES = MAX_IMAGE_BYTES + (1 << 20)
"""The largest image, a prompt, and the multipart envelope."""

QUEUE_REQUESTS = 100


@dataclass(frozen=True)
class Ports:
    """One port for each of TorchServe's doors."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


@dataclass(frozen=True)
class Doors:
    """Where and how the inference doors listen; the management and metrics doors stay on loopback, unencrypted.

    Attributes:
        ports: of all doors.
        host: of the REST inference door, and of the gRPC one if it is encrypted.
        tls: whether the two speak TLS, with the certificate in the run folder (teacher_service.tls).
    """

    ports: Ports
    host: str = HOST
    tls: bool = False


def address(port: int, host: str = HOST, scheme: str = SCHEME) -> str:
    """The URL of a door."""
    return f"{scheme}://{host}:{port}"


def properties(run_folder: Path, doors: Doors, token_minutes: float) -> str:
    """The content of config.properties, from the template beside this file."""
    ports = doors.ports
    text = Template(files("teacher_service").joinpath(TEMPLATE_FILE).read_text()).substitute(
        inference_address=address(ports.inference, doors.host, "https" if doors.tls else SCHEME),
        management_address=address(ports.management),
        metrics_address=address(ports.metrics),
        host=doors.host if doors.tls else HOST,
        grpc_inference_port=ports.grpc_inference,
        grpc_management_port=ports.grpc_management,
        token_minutes=token_minutes,
        allowed_urls=f"file://{run_folder / STORE_FOLDER}/.*",
        max_request_size=MAX_REQUEST_BYTES,
        max_response_size=MAX_ANSWER_BYTES + (1 << 20),
        job_queue_size=QUEUE_REQUESTS,
    )
    return text + (_tls(run_folder) if doors.tls else "")


def logging() -> str:
    """The content of log4j2.xml; log4j knows its format by the file's ending, so it is written into the run folder, too."""
    return files("teacher_service").joinpath(f"{LOGGING_FILE}.template").read_text()


def _tls(run_folder: Path) -> str:
    return f"private_key_file={run_folder / KEY_PEM}\ncertificate_file={run_folder / CERTIFICATE_PEM}\nenable_grpc_ssl=true\n"


def command(java: Path, torchserve_home: Path, run_folder: Path, temporary: Path, heap_mb: int) -> list[str]:
    """What ``torchserve --start`` would run; started directly, the child process is the server itself and signals reach it.

    ``temporary`` is the run folder's TEMPORARY_FOLDER under a name that leaves room for the sockets in it.
    """
    return [
        str(java),
        f"-Dmodel_server_home={torchserve_home}",
        f"-Xmx{heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j2.configurationFile={(run_folder / LOGGING_FILE).as_uri()}",
        "-cp",
        str(torchserve_home / "ts" / "frontend" / "*"),
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(run_folder / PROPERTIES_FILE),
        "-s",
        str(run_folder / STORE_FOLDER),
        "-ncs",
        "-m",
        f"{MODEL_NAME}={MODEL_NAME}.mar",
    ]


def environment(
    inherited: Mapping[str, str], run_folder: Path, threads: int, embeddings: Path | None = None, precision: str = FLOAT32
) -> dict[str, str]:
    """The environment of the server and its worker; settings of another TorchServe are left behind."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("TS_") and name != EMBEDDINGS_VARIABLE}
    temporary = str(run_folder / TEMPORARY_FOLDER)
    return {
        **kept,
        "TEMP": temporary,
        "TMPDIR": temporary,
        "LOG_LOCATION": str(run_folder / LOG_FOLDER),
        "METRICS_LOCATION": str(run_folder / LOG_FOLDER),
        RUN_FOLDER_VARIABLE: str(run_folder),
        PRECISION_VARIABLE: precision,
        **({} if embeddings is None else {EMBEDDINGS_VARIABLE: str(embeddings)}),
        "OMP_NUM_THREADS": str(threads),
        # Waiting OpenMP threads sleep instead of spinning: spinning made two threads slower than one on shared cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
