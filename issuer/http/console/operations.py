"""The routes of the console: every screen has its folder, and its operations here."""

from __future__ import annotations

from typing import Final

from issuer.http.console.access import keys, operators, records
from issuer.http.console.batches import batch_screens, changes, creation
from issuer.http.console.campaigns import campaign_screens
from issuer.http.console.campaigns import changes as campaign_changes
from issuer.http.console.clients import client_screens
from issuer.http.console.coupons import coupon_screens
from issuer.http.console.finding import screen as find
from issuer.http.console.incidents import screen as incidents
from issuer.http.console.ledger import screen as ledger
from issuer.http.console.loyalty import card_screens, member_screens, program_screens
from issuer.http.console.now import now_screen
from issuer.http.console.series import series_screens
from issuer.http.console.sign_in import account, sign_in
from issuer.http.operations import Operation

CONSOLE: Final[tuple[Operation, ...]] = (
    *sign_in.OPERATIONS,
    *account.OPERATIONS,
    *now_screen.OPERATIONS,
    *series_screens.OPERATIONS,
    *creation.OPERATIONS,
    *batch_screens.OPERATIONS,
    *changes.OPERATIONS,
    *find.OPERATIONS,
    *incidents.OPERATIONS,
    *ledger.OPERATIONS,
    *campaign_changes.OPERATIONS,
    *campaign_screens.OPERATIONS,
    *coupon_screens.OPERATIONS,
    *program_screens.OPERATIONS,
    *member_screens.OPERATIONS,
    *card_screens.OPERATIONS,
    *client_screens.OPERATIONS,
    *keys.OPERATIONS,
    *operators.OPERATIONS,
    *records.OPERATIONS,
)
"""Pages for people who operate the installation. They are no part of the API."""
