"""Recognise a file of codes by its first bytes, whatever its name: a text, a workbook, or something else."""

from __future__ import annotations

import re
from typing import Final

from issuer.loading.errors import CodeFileError

ZIP: Final = b"PK\x03\x04"
_SAVE_AS: Final = "save it as .xlsx or as CSV UTF-8"
_OTHERS: Final = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls), or one with a password"),
    (b"%PDF-", "a PDF"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"PK\x05\x06", "an empty zip archive"),
)  # fmt: skip
_is_html = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|meta|table|body)\b", re.IGNORECASE).match
_is_xml = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\b").match
_is_json = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*\"|\[\s*[\[{\"])").match


class FileKindError(CodeFileError):
    """The file is neither a text nor a workbook. The message names what it is."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"the file is {kind}: {_SAVE_AS}")


def is_zip(head: bytes) -> bool:
    """Return whether the file is a zip archive, as workbooks are. Raises FileKindError for what is no text either."""
    if head.startswith(ZIP):
        return True
    for beginning, kind in _OTHERS:
        if head.startswith(beginning):
            raise FileKindError(kind)
    if _is_html(head):
        raise FileKindError("an HTML page")
    if _is_xml(head):
        raise FileKindError("XML")
    if _is_json(head):
        raise FileKindError("JSON")
    return False


def kind_of_archive(names: frozenset[str]) -> str | None:
    """Return what a zip archive with these members is, as FileKindError says it; None: an Excel workbook."""
    if "xl/workbook.bin" in names:
        return "a binary Excel workbook (.xlsb)"
    if "[Content_Types].xml" in names:
        if any(name.startswith("word/") for name in names):
            return "a Word document"
        if any(name.startswith("ppt/") for name in names):
            return "a PowerPoint presentation"
        return None
    if "mimetype" in names and "content.xml" in names:
        return "an OpenDocument file (.ods)"
    if any(name.startswith("Index/") for name in names):
        return "a Numbers document"
    return "a zip archive"
