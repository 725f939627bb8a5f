"""The logs of the program while it runs inside a test process."""

from __future__ import annotations

import structlog


def plain_logs() -> None:
    """Configure log lines with a plain traceback.

    structlog's default draws each traceback with its source and all local variables, which takes a second.
    """
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
