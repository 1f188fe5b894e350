"""What of a PACS export a site uses; a value of its own, so that settings need not load a DICOM library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportRules:
    """What of an export is used.

    Attributes:
        modalities: values of Modality that are radiographs here.
        held_out: share of the patients whose images are held out for scoring.
        automatic_masks: take masks that a program drew for the truth, too.
    """

    modalities: tuple[str, ...] = ("CR", "DX")
    held_out: float = 0.2
    automatic_masks: bool = False
