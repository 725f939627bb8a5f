"""Multipart forms in UTF-8.

Starlette also reads other charsets, some of which crash, and reads a text that is not of its charset as Latin-1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from issuer.http.fields import quoted_name
from issuer.http.problems.problem import invalid

_NOT_UTF_8 = "the form is not UTF-8"


class _Utf8Parser(MultiPartParser):
    """Starlette's parser, for names and fields that are UTF-8. Names by RFC 2231 (`name*=`) are not used in forms.

    `is_complete`: the form has its end. One that is cut off may lack fields, or a part of its file.
    """

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True

    def on_headers_finished(self) -> None:
        _check(self._current_part.content_disposition or b"")
        super().on_headers_finished()

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            _check(bytes(self._current_part.data))
        super().on_part_end()


def _check(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise MultiPartException(_NOT_UTF_8) from error


def is_multipart(request: Request) -> bool:
    """Return whether the body is a multipart form."""
    return parse_options_header(request.headers.get("content-type"))[0] == b"multipart/form-data"


@asynccontextmanager
async def multipart_form(
    request: Request, *, max_files: int, max_fields: int, max_part_size: int = 1_048_576
) -> AsyncIterator[FormData]:
    """Read a multipart form and remove its files at the end; one without fields, if the body is of another type.

    Raises ProblemError (400) for a form that cannot be read or has a name twice.
    """
    form = FormData()
    if is_multipart(request):
        charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
        if charset.lower() not in (b"utf-8", b"utf8"):
            raise invalid(_NOT_UTF_8)
        try:
            async with aclosing(request.stream()) as stream:
                parser = _Utf8Parser(
                    request.headers, stream, max_files=max_files, max_fields=max_fields, max_part_size=max_part_size
                )
                form = await parser.parse()
            if not parser.is_complete:
                await form.close()
                raise MultiPartException("the form has no end")
            for name in form:
                if len(form.getlist(name)) > 1:
                    await form.close()
                    raise MultiPartException(f"{quoted_name(name)} is given more than once")
        except MultiPartException as error:
            raise invalid(error.message) from error
    try:
        yield form
    finally:
        await form.close()
