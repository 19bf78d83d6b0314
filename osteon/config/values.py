"""What the sections are made of: the types of single values, and the rule of every section.

The other modules of this folder build on it; nothing else enters here.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Default repertoire without backslash and control characters, 16 characters (PS3.5 6.2, VR AE).
# Spaces at its ends mean nothing there, and no peer says them.
_AE_TITLE = r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
TLS_ADDRESS = r"^tls://(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}$"
# What is said to a value that one of these patterns does not match.
PATTERN_WORDS = {
    _AE_TITLE: "an AE title has letters, digits and other ASCII characters, but no backslash",
    _NAME: "a name has letters, digits, '_', '.' and '-', a letter or a digit first",
    TLS_ADDRESS: "write tls://HOST:PORT",
}
AETitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    Field(min_length=1, max_length=16, pattern=_AE_TITLE),
]
Host = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]


class Section(BaseModel):
    """What every section is: nothing unknown in it, and nobody changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Priority(StrEnum):
    """Priority classes, the most urgent first: a class runs only when none before it waits."""

    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"
    BULK = "bulk"
