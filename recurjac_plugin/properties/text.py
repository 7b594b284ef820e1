"""The text of a property from the bytes of its file, in the ASCII that the parser takes.

Files come from many editors: with a byte order mark, in UTF-16, with comments in Latin-1. VNN-LIB itself is ASCII, so
that other characters have a meaning in comments only, where they are replaced.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from recurjac_plugin.errors import FileError

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_COMMENT = re.compile(r";[^\n]*")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def plain_text(content: bytes, path: Path, kind: str) -> str:
    """The text, ASCII alone, its lines where they are in the file; comments may have lost characters.

    Args:
        content: of the file.
        path: for messages.
        kind: what the file should be, for messages.

    Raises:
        FileError: it is no text, or has characters outside ASCII that are not in comments.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        text = content.decode("latin-1")  # every byte is a character of it
        if "\0" in text or _NOT_ASCII.search(_COMMENT.sub("", text)):
            raise FileError(f"`{path}` is not {kind}: it is not text ({error.reason}); check the path.") from error
    if text.isascii():
        return text
    text = _COMMENT.sub(lambda match: _NOT_ASCII.sub("?", match[0]), text)
    strange = _NOT_ASCII.search(text)
    if strange is not None:
        line = text.count("\n", 0, strange.start()) + 1
        raise FileError(
            f"`{path}` line {line} has the character {strange[0]!r} outside of a comment: VNN-LIB is ASCII; replace it."
        )
    return text
