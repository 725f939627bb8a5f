"""The answer to a request as an exception: what a page calls first may end the visit, such as with a redirect."""

from __future__ import annotations

from starlette.responses import Response


class AnsweredError(Exception):
    """The handler is done. `response`: the answer to the request."""

    def __init__(self, response: Response) -> None:
        super().__init__("the request is answered")
        self.response = response
