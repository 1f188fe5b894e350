"""TorchServe's settings, pure: from a few values to its configuration file, command line and environment.

Everything listens on loopback. Tokens are on, the model API is off, models come from the store alone, archives install nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmentor.teacher.images import MAX_IMAGE_BYTES
from teacher_service.payload import MAX_ANSWER_BYTES

HOST = "127.0.0.1"
SCHEME = "http"
"""Plain HTTP never leaves the machine. TorchServe's own TLS is limited to 1.2 with two old ciphers."""

MODEL_NAME = "teacher"
"""The name under which TorchServe serves: ``POST /predictions/teacher``."""

RUN_FOLDER_VARIABLE = "FEDMENTOR_TEACHER_RUN"
"""Environment variable that tells the worker the run folder."""

REFUSAL_FILE = "refused.json"
"""Where, in the run folder, a worker that refuses its weights says why."""

KEY_FILE = "key_file.json"
PROPERTIES_FILE = "config.properties"
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


def address(port: int) -> str:
    """The URL of a door."""
    return f"{SCHEME}://{HOST}:{port}"


def properties(run_folder: Path, ports: Ports, token_minutes: float) -> str:
    """The content of config.properties."""
    lines = {
        "inference_address": address(ports.inference),
        "management_address": address(ports.management),
        "metrics_address": address(ports.metrics),
        "grpc_inference_address": HOST,
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_address": HOST,
        "grpc_management_port": ports.grpc_management,
        "disable_token_authorization": "false",
        "token_expiration_min": token_minutes,
        "enable_model_api": "false",
        "allowed_urls": f"file://{run_folder / STORE_FOLDER}/.*",
        "install_py_dep_per_model": "false",
        "enable_envvars_config": "false",
        "default_workers_per_model": 1,
        "number_of_netty_threads": 2,
        "netty_client_threads": 1,
        "job_queue_size": QUEUE_REQUESTS,
        "max_request_size": MAX_REQUEST_BYTES,
        "max_response_size": MAX_ANSWER_BYTES + (1 << 20),
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",
        "disable_system_metrics": "true",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


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


def environment(inherited: Mapping[str, str], run_folder: Path, threads: int) -> dict[str, str]:
    """The environment of the server and its worker; settings of another TorchServe are left behind."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("TS_")}
    temporary = str(run_folder / TEMPORARY_FOLDER)
    return {
        **kept,
        "TEMP": temporary,
        "TMPDIR": temporary,
        "LOG_LOCATION": str(run_folder / LOG_FOLDER),
        "METRICS_LOCATION": str(run_folder / LOG_FOLDER),
        RUN_FOLDER_VARIABLE: str(run_folder),
        "OMP_NUM_THREADS": str(threads),
        # Waiting OpenMP threads sleep instead of spinning: spinning made two threads slower than one on shared cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
