"""When points expire, worked out by hand: across changes of the clocks, and around 29 February.

The clocks of London change on 29 March and 25 October 2026 at 01:00 UTC. Those of São Paulo skipped the midnight of
4 November 2018 and repeated the hour before the midnight of 18 February 2018. Kathmandu is 5:45 hours ahead.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest

from issuer.instants import show_instant
from issuer.loyalty.bounds import NEVER
from issuer.loyalty.days import expiry_of
from issuer.loyalty.terms import Expiry, ExpiryRule

CASES: Final = """
Europe/London     2026-03-27T12:00:00Z days 1        2026-03-29T00:00:00.000Z
Europe/London     2026-03-28T12:00:00Z days 1        2026-03-29T23:00:00.000Z
Europe/London     2026-03-28T23:59:59Z days 1        2026-03-29T23:00:00.000Z
Europe/London     2026-03-29T00:00:00Z days 1        2026-03-30T23:00:00.000Z
Europe/London     2026-06-30T22:30:00Z days 1        2026-07-01T23:00:00.000Z
Europe/London     2026-06-30T23:30:00Z days 1        2026-07-02T23:00:00.000Z
Europe/London     2026-10-23T12:00:00Z days 1        2026-10-24T23:00:00.000Z
Europe/London     2026-10-24T12:00:00Z days 1        2026-10-26T00:00:00.000Z
Europe/London     2026-10-25T00:30:00Z days 1        2026-10-27T00:00:00.000Z
Europe/London     2026-10-25T01:30:00Z days 1        2026-10-27T00:00:00.000Z
Europe/London     2026-01-31T12:00:00Z months 1      2026-03-01T00:00:00.000Z
Europe/London     2024-01-31T12:00:00Z months 1      2024-03-01T00:00:00.000Z
Europe/London     2024-02-29T12:00:00Z months 12     2025-03-01T00:00:00.000Z
Europe/London     2024-02-29T12:00:00Z months 48     2028-03-01T00:00:00.000Z
Europe/London     2026-09-30T12:00:00Z months 6      2027-03-30T23:00:00.000Z
Europe/London     2026-08-31T12:00:00Z months 1      2026-09-30T23:00:00.000Z
Europe/London     2026-06-15T12:00:00Z end_of_year 0 2027-01-01T00:00:00.000Z
Europe/London     2026-12-31T23:59:00Z end_of_year 0 2027-01-01T00:00:00.000Z
Europe/London     2026-12-31T23:59:00Z end_of_year 1 2028-01-01T00:00:00.000Z
Europe/London     2026-06-15T12:00:00Z never 0       9999-12-30T00:00:00.000Z
America/Sao_Paulo 2018-11-02T12:00:00Z days 1        2018-11-04T03:00:00.000Z
America/Sao_Paulo 2018-11-03T12:00:00Z days 1        2018-11-05T02:00:00.000Z
America/Sao_Paulo 2018-11-04T02:59:59Z days 1        2018-11-05T02:00:00.000Z
America/Sao_Paulo 2018-11-04T03:00:00Z days 1        2018-11-06T02:00:00.000Z
America/Sao_Paulo 2018-02-15T12:00:00Z days 1        2018-02-17T02:00:00.000Z
America/Sao_Paulo 2018-02-16T12:00:00Z days 1        2018-02-18T03:00:00.000Z
America/Sao_Paulo 2018-02-18T01:30:00Z days 1        2018-02-19T03:00:00.000Z
America/Sao_Paulo 2018-02-18T02:30:00Z days 1        2018-02-19T03:00:00.000Z
America/Sao_Paulo 2018-10-03T12:00:00Z months 1      2018-11-04T03:00:00.000Z
America/Sao_Paulo 2018-06-01T12:00:00Z end_of_year 0 2019-01-01T02:00:00.000Z
America/Sao_Paulo 2026-01-31T12:00:00Z months 1      2026-03-01T03:00:00.000Z
America/Sao_Paulo 2026-01-01T02:00:00Z end_of_year 0 2026-01-01T03:00:00.000Z
Asia/Kathmandu    2026-06-01T12:00:00Z days 1        2026-06-02T18:15:00.000Z
Asia/Kathmandu    2026-06-01T18:14:59Z days 1        2026-06-02T18:15:00.000Z
Asia/Kathmandu    2026-06-01T18:15:00Z days 1        2026-06-03T18:15:00.000Z
Asia/Kathmandu    2024-02-29T12:00:00Z months 12     2025-02-28T18:15:00.000Z
Asia/Kathmandu    2024-02-28T18:15:00Z months 12     2025-02-28T18:15:00.000Z
Asia/Kathmandu    2023-10-31T12:00:00Z months 4      2024-02-29T18:15:00.000Z
Asia/Kathmandu    2026-12-31T18:14:59Z end_of_year 0 2026-12-31T18:15:00.000Z
Asia/Kathmandu    2026-12-31T18:15:00Z end_of_year 0 2027-12-31T18:15:00.000Z
"""


def test_points_expire_at_the_end_of_a_day_of_their_program() -> None:
    lines = CASES.split("\n")[1:-1]
    assert len(lines) == 40
    wrong = []
    for line in lines:
        zone, now, rule, count, expected = line.split()
        found = expiry_of(Expiry(ExpiryRule(rule), int(count)), datetime.fromisoformat(now), ZoneInfo(zone))
        if show_instant(found) != expected:
            wrong.append((line, show_instant(found)))
    assert wrong == []


@pytest.mark.parametrize("rule", [ExpiryRule.DAYS, ExpiryRule.END_OF_YEAR])
def test_an_expiry_beyond_the_bounds_is_never(rule: ExpiryRule) -> None:
    now = datetime.fromisoformat("9999-12-29T12:00:00Z")
    assert expiry_of(Expiry(rule, 0), now, ZoneInfo("Asia/Kathmandu")) == NEVER
