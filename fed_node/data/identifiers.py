"""Who a DICOM object shows: which attributes would tell, and the keyed names under which the node tells patients apart.

Names and counts of attributes may be printed; values never leave this package. A pseudonym is an HMAC under the site's own key: the
same patient has the same name at every start, and without the key nobody can find out which PatientID it stands for by trying.
"""

from __future__ import annotations

import hmac
import unicodedata
from dataclasses import dataclass, field

import pydicom

KEYWORDS = frozenset(
    {
        *("PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName"),
        *("PatientBirthDate", "PatientBirthTime", "PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers"),
        *("PatientAge", "PatientSex", "PatientSize", "PatientWeight", "EthnicGroup", "Occupation", "MilitaryRank"),
        *("MedicalRecordLocator", "InsurancePlanIdentification", "CountryOfResidence", "RegionOfResidence", "PatientComments"),
        *("AdditionalPatientHistory", "ImageComments", "AccessionNumber", "StudyID", "AdmissionID", "RequestingService"),
        *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
        *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"),
        *("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "StudyTime", "AcquisitionDateTime"),
        *("StudyDescription", "ProtocolName", "RequestedProcedureID", "ScheduledProcedureStepID", "PerformedProcedureStepID"),
    }
)
"""Attributes that identify a person, alone or with others: those of PS3.15, table E.1-1, that radiographs have.

Every attribute of the type 'person name' and every private attribute counts besides these.
"""

PRIVATE = "private attributes"

_SIZE = 24
"""Hexadecimal characters of a pseudonym, 96 bits: among a million patients two meet with a chance of one in 10**17."""


@dataclass(frozen=True)
class Pseudonyms:
    """Makes keyed names. The key is never printed."""

    key: bytes = field(repr=False)

    def patient(self, header: pydicom.Dataset) -> str | None:
        """The name of the person whom an object shows; None where it says nothing.

        The same PatientID under another issuer is another person (PS3.3, C.7.1.1.1).
        """
        patient = _text(header, "PatientID")
        return self._name("p", f"{_text(header, 'IssuerOfPatientID')}\0{patient}") if patient else None

    def image(self, uid: str) -> str:
        """The name of an image by its SOPInstanceUID."""
        return self._name("i", uid)

    def share(self, patient: str) -> float:
        """A number in [0, 1) that stays with a patient: who is under the held-out share is held out, whoever else comes or goes.

        Args:
            patient: from ``patient()``.
        """
        return int(self._name("s", patient)[1:], 16) / float(16**_SIZE)

    def _name(self, kind: str, text: str) -> str:
        return kind + hmac.digest(self.key, f"fedmentor/{kind}/{text}".encode(), "sha256").hex()[:_SIZE]


def identifying(header: pydicom.Dataset) -> frozenset[str]:
    """Keywords of the attributes of a header, nested ones too, that identify and have a value. No values."""
    found = set()
    for element in header.iterall():
        if element.tag.is_private:
            found.add(PRIVATE)
        elif (element.keyword in KEYWORDS or element.VR == "PN") and not element.is_empty:
            found.add(element.keyword)
    return frozenset(found)


def _text(header: pydicom.Dataset, keyword: str) -> str:
    """A value without the padding that some systems add; the same letters in the same form."""
    return unicodedata.normalize("NFC", str(header.get(keyword) or "")).strip(" \0")
