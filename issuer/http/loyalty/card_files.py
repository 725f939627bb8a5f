"""…/cards.pdf and …/cards/{number}/apple.pkpass and google: cards on paper and in the wallets of phones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import id_field, json_response
from issuer.http.loyalty.cards import CARD_PATH, CARDS_PATH, account_of, card_of, find_typed
from issuer.http.loyalty.requests import program_of
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.loyalty.apple_pass import MEDIA_TYPE, AppleSigner, make_pass
from issuer.loyalty.balances import read_balance
from issuer.loyalty.card_printing import CardSheet, print_cards
from issuer.loyalty.card_sheets import sheet_of, sheet_of_run
from issuer.loyalty.google_pass import GoogleSigner, save_link
from issuer.loyalty.pass_card import PassCard
from issuer.loyalty.program import Program
from issuer.loyalty.terms import POINTS
from issuer.money import from_minor

T = TypeVar("T")

_SELECTED_BY: Final = ("run_id", "number")
_TOO_SLOW: Final = ProblemError(503, "the sheets took too long", "report_timeout", headers={"Retry-After": "60"})


async def get_sheets(context: RequestContext) -> Response:
    """Return sheets with the cards of one run that are not revoked, or with one card."""
    program = await program_of(context)
    sheet = await _sheet(context, program)
    settings = context.services.settings
    headers = {"content-disposition": 'attachment; filename="cards.pdf"', "cache-control": "no-store"}
    # It keeps a core busy for seconds, as the report of a workbook does, and needs no Postgres.
    await context.end_slot()
    async with context.services.slots.reports.hold(context.caller.tenant):
        try:
            async with asyncio.timeout(settings.report_timeout_s):
                return Response(await print_cards(sheet), media_type="application/pdf", headers=headers)
        except TimeoutError as error:
            raise _TOO_SLOW from error


async def _sheet(context: RequestContext, program: Program) -> CardSheet:
    query, font = context.request.query_params, context.services.settings.card_font
    if "number" in query and "run_id" not in query:
        return sheet_of(program, [(await find_typed(context, program, query["number"])).number], font)
    run_id = id_field(query, "run_id")
    if run_id is None or "number" in query:
        raise invalid("give run_id, of the cards that were issued together, or the number of one card")
    return await sheet_of_run(context.services.stores.postgres, program, run_id, font)


async def get_apple_pass(context: RequestContext) -> Response:
    """Return the card as a file for Apple Wallet. Raises WalletError where no certificate is configured."""
    settings = context.services.settings
    signer = await asyncio.to_thread(
        AppleSigner.load,
        settings.apple_pass_certificate,
        settings.apple_pass_key,
        settings.apple_intermediate_certificate,
    )
    content = await _made(context, lambda card: make_pass(card, signer))
    headers = {"content-disposition": 'attachment; filename="card.pkpass"', "cache-control": "no-store"}
    return Response(content, media_type=MEDIA_TYPE, headers=headers)


async def get_google_link(context: RequestContext) -> Response:
    """Return the link that saves the card in Google Wallet. Raises WalletError where no key is configured."""
    settings = context.services.settings
    signer = await asyncio.to_thread(
        GoogleSigner.load, settings.google_wallet_key, settings.google_wallet_issuer, settings.google_wallet_logo
    )
    link = await _made(context, lambda card: save_link(card, signer))
    response = json_response({"url": link})
    response.headers["cache-control"] = "no-store"
    return response


async def _made(context: RequestContext, make: Callable[[PassCard], T]) -> T:
    """Return what `make` makes of the card of the path, in a thread."""
    program = await program_of(context)
    card = await card_of(context, program)
    state = await read_balance(context.services.stores.postgres, program, account_of(card))
    is_points = program.unit == POINTS
    shown = PassCard(
        program.id,
        program.name,
        card.number,
        state.available if is_points else from_minor(state.available, program.unit),
        None if is_points else program.unit,
        datetime.now(UTC),
    )
    return await asyncio.to_thread(make, shown)


OPERATIONS: Final = (
    Operation("GET", CARDS_PATH + ".pdf", get_sheets, query=_SELECTED_BY),
    Operation("GET", CARD_PATH + "/apple.pkpass", get_apple_pass, Access.ANY_KEY),
    Operation("GET", CARD_PATH + "/google", get_google_link, Access.ANY_KEY),
)
