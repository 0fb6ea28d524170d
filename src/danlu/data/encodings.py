"""What bytes are that are no UTF-8."""

from __future__ import annotations

import codecs

_COMMONEST = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
    "這個們來為國說時會對於著過"
)
_LOOKED_AT = 1 << 16
"""Bytes at which an encoding is guessed."""


def not_utf8(error: UnicodeDecodeError, line: bytes) -> str:
    """Say of bytes what they are instead, and what to do."""
    if error.reason == "unexpected end of data" and not line.endswith(b"\n"):
        return "is no UTF-8: it ends in the middle of a character, so the file is cut short"
    found = encoding_of(line[:_LOOKED_AT])
    if found is None:
        return "is no UTF-8. Convert it, e.g. with iconv -f GB18030 -t UTF-8"
    return f"is no UTF-8 but seems to be {found}. Convert it: iconv -f {found} -t UTF-8"


def encoding_of(text: bytes) -> str | None:
    """Guess in which encoding bytes that are no UTF-8 are Chinese: where they give most of the commonest characters."""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    counts = {name: sum(map(text.decode(name, "ignore").count, _COMMONEST)) for name in ("GB18030", "BIG5")}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None
