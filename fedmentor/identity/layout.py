"""Names of the files in a certificates folder.

::

    ca.pem                       the federation's authority; two certificates while it is rotated
    roster.json, roster.sig      who belongs to the federation
    revoked.json, revoked.sig    certificates that are refused before they expire
    coordinator/                 certificate.pem, key.pem, signing.pem
    sites/SITE/                  the same

On a real machine only the folder of its own end is there. ``key.pem`` and ``signing.pem`` are private.
"""

from __future__ import annotations

from typing import Final

CA_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "certificate.pem"
KEY_FILE: Final = "key.pem"
SIGNING_KEY_FILE: Final = "signing.pem"
COORDINATOR_FOLDER: Final = "coordinator"
SITES_FOLDER: Final = "sites"
