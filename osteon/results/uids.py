"""UIDs that come from content, so that the same work twice makes the same object.

Kinds and strings enter, UIDs under the 2.25 root leave; called by every result encoder and by
whoever names a result before it is encoded. Nothing here is random and no clock is read.
"""

import json
import uuid

_NAMESPACE = uuid.UUID("9a3c1f5e-6d0b-5c8e-9e43-0b6f2d7c4a11")  # fixed for ever: it names Osteon


def derive_uid(kind: str, *parts: str) -> str:
    """Derive a UID from what an object is made of.

    Parameters
    ----------
    kind : str
        What the UID is for, e.g. ``"sop-instance"``; different kinds never share a UID.
    *parts : str
        What determines the object: the digest of the input set, the model's digest, the
        parameters. Their order and their borders count: ``("ab", "c")`` is not ``("a", "bc")``.

    Returns
    -------
    str
        A valid UID of at most 44 characters, ``2.25.`` and a name-based UUID as a decimal.

    References
    ----------
    DICOM PS3.5 B.2 (UUID Derived UID); RFC 9562 5.5 (name-based UUID)
    """
    name = json.dumps([kind, *parts], ensure_ascii=True, separators=(",", ":"))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


IMPLEMENTATION_CLASS_UID = derive_uid("implementation-class", "osteon")
"""Implementation Class UID (0002,0012) of every file and association (PS3.7 D.3.3.2)."""

IMPLEMENTATION_VERSION_NAME = "OSTEON"
"""Implementation Version Name (0002,0013); at most 16 characters."""
