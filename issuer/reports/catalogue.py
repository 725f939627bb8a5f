"""Every report by its name, which is the same over HTTP, on the command line and in the documentation."""

from __future__ import annotations

from typing import Final

from issuer.reports.loyalty_reports import MEMBERS, POINTS
from issuer.reports.report import BATCHES, CONSUMPTIONS, COUPONS, REDEMPTIONS, Report

REPORTS: Final[dict[str, Report]] = {
    report.name: report for report in (REDEMPTIONS, CONSUMPTIONS, COUPONS, BATCHES, POINTS, MEMBERS)
}
