"""DICOM libraries kept from telling what a file holds: their warnings and log lines quote values, which may be a patient's.

How a value must look is checked where it is used, without quoting it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pydicom

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
for _name in ("pydicom", "highdicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


@contextmanager
def silent() -> Iterator[None]:
    """No warnings from DICOM libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
