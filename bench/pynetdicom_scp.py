"""A storage SCP as pynetdicom's own examples write one, to measure Osteon against.

    pynetdicom_scp.py PORT FOLDER [--sync]

Port and folder enter, a file for each instance leaves, in the shortest way that its documentation
has: ``encoded_dataset()`` goes to a file. ``--sync`` adds fdatasync before the answer. Everything
else is stock but the limit of associations, which is 10.
"""

import os
import sys
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

PORT, FOLDER, SYNC = int(sys.argv[1]), Path(sys.argv[2]), "--sync" in sys.argv


def store(event: Any) -> int:
    with (FOLDER / f"{event.request.AffectedSOPInstanceUID}.dcm").open("wb") as file:
        file.write(event.encoded_dataset())
        if SYNC:
            file.flush()
            os.fdatasync(file.fileno())
    return 0x0000  # Success, PS3.4 Table B.2-1


ae = AE("STORESCP")
ae.maximum_associations = 100
ae.supported_contexts = AllStoragePresentationContexts
ae.add_supported_context(Verification)
ae.start_server(("127.0.0.1", PORT), evt_handlers=[(evt.EVT_C_STORE, store)])
