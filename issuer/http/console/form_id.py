"""The id of a form: what the form asks for is done once, however often a browser sends it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from issuer.http.answered import AnsweredError
from issuer.http.idempotency import Idempotency
from issuer.http.problems.problem import ProblemError
from issuer.storage.kept_answers import KeptAnswer, wait_for_lock
from issuer.storage.postgres import AnyConnection

FORM_ID: Final = "form_id"
"""The field with the id, which is another one in every page."""
SENT_BEFORE: Final = ProblemError(
    422, "this form was sent before, with other values", "idempotency_key_reused", detail="open the page again"
)


class FormId(Idempotency):
    """An Idempotency-Key that is a field of a form. The answer that is kept is a redirect."""

    async def lock(self, connection: AnyConnection) -> None:
        """Wait for the first of two clicks, so that the second is answered like it. Raises as `check`."""
        if self.key is not None:
            await wait_for_lock(connection, self.answer_key)
            await self.check(connection)

    def compare(self, answer: KeptAnswer) -> None:
        if answer.request_sha256 != self.digest:
            raise SENT_BEFORE
        raise AnsweredError(Response(status_code=303, headers=dict(answer.headers)))

    def kept(self, response: Response) -> KeptAnswer:
        # What is kept are answers of success; that this one redirects, `compare` knows.
        return replace(super().kept(response), status=200)
