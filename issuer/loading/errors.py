"""Why a load as a whole is refused. Nothing was changed then; each message is written for the caller."""

from __future__ import annotations


class PreloadError(Exception):
    """The load is refused."""


class SourceError(PreloadError):
    """The file could not be read to its end."""


class CodeFileError(PreloadError):
    """The file cannot be read as codes."""


class HeaderRowError(CodeFileError):
    """The first row does not name the required columns. `needs_client`: one for the client is among these."""

    def __init__(self, message: str, *, needs_client: bool = False) -> None:
        super().__init__(message)
        self.needs_client = needs_client
