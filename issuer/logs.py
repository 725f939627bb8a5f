"""Logs to stderr: one JSON object per line, or readable lines when stderr is a terminal. Secrets are masked."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from types import TracebackType
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from issuer.misspelt import unknown_variables
from issuer.names import visible

MASK: Final = "**********"
_SECRET_NAMES: Final = re.compile(r"password|secret|authorization|token|api_?key$", re.IGNORECASE)
# A password may contain `/` and `@`, though it should not: it extends to the last `@` before a space.
_SECRETS: Final = re.compile(
    r"(?<=://)(?P<user>[^/\s:@]*):\S*@|(?P<name>[?&;]\w*(?:password|secret|token)=)[^\s&;]+|isk_[A-Za-z0-9_-]{8,}",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return the text with passwords in URLs and API keys masked. Every text for people passes through here: log lines,
    errors of commands, tracebacks.
    """
    return _SECRETS.sub(_mask_found, text)


def _mask_found(found: re.Match[str]) -> str:
    if found["user"] is not None:
        return f"{found['user']}:{MASK}@"
    return f"{found['name'] or ''}{MASK}"


def _print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def _mask(value: Any) -> Any:
    if isinstance(value, str):
        return visible(masked(value))
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(key, str) and _SECRET_NAMES.search(key) else _mask(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_mask(inner) for inner in value]
    return value


def mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Mask the secrets of an event. It is the last processor before rendering, so that it sees everything."""
    masked_event: EventDict = _mask(dict(event))
    return masked_event


def configure_logs(level: str, *, name: str = "", terminal: bool | None = None) -> None:
    """Configure the logs of this process, whose `name` is in every line. Call this once, first."""
    terminal = sys.stderr.isatty() if terminal is None else terminal
    number = logging.getLevelNamesMapping()[level.upper()]

    def add_name(_logger: Any, _method: str, event: EventDict) -> EventDict:
        if name:
            event.setdefault("process", name)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Log lines of libraries are rendered in the same way.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    sys.excepthook = _print_masked


def warn_of_unknown_variables() -> None:
    """Log a warning for each misspelt variable. Processes that keep running call this at their start."""
    for line in unknown_variables():
        structlog.get_logger().warning(line)
