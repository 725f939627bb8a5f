"""What `issuer up` prints once everything runs, and the log line about codes that were issued."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from issuer.contract.outcomes import Outcome
from issuer.http.metrics.tally import OF_COUPON, read_tallies
from issuer.settings import Settings

log = structlog.get_logger()

LOG_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class StartedInstallation:
    """What is printed once everything runs."""

    url: str
    api_key: str | None
    key_file: Path
    curl: str | None
    console_link: str | None
    """What signs one browser in, within 10 minutes; None: there is no console, or no terminal that shows it."""


UNCOUNTED_ADDRESSES: Final = (
    "Failed look-ups of codes are not limited: behind a gateway all callers have one address. Set"
    " ISSUER_TRUSTED_PROXIES to the gateways that report the addresses of callers, or to none without a gateway"
)


def print_started(started: StartedInstallation, settings: Settings) -> None:
    """Print to stdout and flush: it may be a pipe. The API key is for terminals only: a pipe may end in a log."""
    lines = ["", f"issuer is running at {started.url}", f"API documentation: {started.url}/docs"]
    if started.console_link is not None:
        lines.append(f"Console (the link signs you in once, within 10 minutes): {started.console_link}")
    elif settings.has_console:
        lines.append(f"Console: {started.url}/console (`issuer console-link` prints a link that signs you in)")
    if started.api_key is not None and sys.stdout.isatty():
        lines.append(f"API key (also in {started.key_file}): {started.api_key}")
    elif started.api_key is not None:
        lines.append(f"The API key is in {started.key_file}")
    else:
        lines.append("API keys are off: every caller that reaches this address may redeem and administer")
        if not settings.counts_addresses:
            lines.append(UNCOUNTED_ADDRESSES)
    if settings.appendfsync != "always":
        lines.append(
            "ISSUER_APPENDFSYNC=everysec: a crash of the machine may lose up to 2 s of answered redemptions;"
            " as many codes are then quarantined"
        )
    if started.curl is not None:
        lines += ["", "Redeem a code:", "", f"  {started.curl}"]
    else:
        lines += ["", "There is no batch to redeem from yet: issuer preload codes.csv --batch-name 'First'"]
    print(*lines, "", "Ctrl-C stops everything.", "", sep="\n", flush=True)


async def log_issued(directory: Path) -> None:
    """Log how many codes and uses of coupons were issued, at most once a second: from counters, not per request."""
    before = _issued(directory)
    while True:
        await asyncio.sleep(LOG_EVERY_S)
        counts = _issued(directory)
        if counts != before:
            log.info("issued", codes=counts[0] - before[0], coupon_uses=counts[1] - before[1], since_start=sum(counts))
        before = counts


def _issued(directory: Path) -> tuple[int, int]:
    outcomes = read_tallies(directory).outcomes
    return outcomes.get(Outcome.GRANTED, 0), outcomes.get(OF_COUPON + Outcome.GRANTED, 0)
