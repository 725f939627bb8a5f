"""The mail of one process: a bounded queue, and the tasks that send from it.

A request never waits for the mail server, so its answer takes as long for an address that gets mail as for any other.
A message that cannot be sent is logged without its address; what it was for can be asked for again.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiosmtplib import SMTP, SMTPException, SMTPNotSupported, SMTPRecipientsRefused, SMTPResponseException

from issuer.mail.message import Mail, build_message
from issuer.mail_server import Tls
from issuer.settings import Settings

log = structlog.get_logger()

MAX_WAITING: Final = 1_000
"""Messages that wait in one process. Further ones are dropped, and logged."""
SENDERS: Final = 4
SEND_LIMIT_S: Final = 30.0
"""Time limit of one attempt, from the connection to the answer."""
PAUSES_S: Final = (2.0, 20.0)
"""Pauses before a message is tried again that failed for a reason that may pass."""
LASTING: Final = (SMTPException, SMTPNotSupported)
"""Errors, by exact class, that do not pass, such as a server without STARTTLS. Others have classes of their own."""
DRAIN_LIMIT_S: Final = 5.0
"""How long a process that stops waits for its queue."""


class Mailer:
    """Sends mail in the background. `start` first, `aclose` last."""

    def __init__(self, settings: Settings) -> None:
        """`settings` must have a mail server."""
        server, sender = settings.mail_server, settings.mail_sender
        assert server is not None
        assert sender is not None
        self._server, self._sender, self._reply_to = server, sender, settings.mail_reply_address
        self._queue: asyncio.Queue[Mail] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._send_all(), name=f"mail-{number}") for number in range(SENDERS)]

    def post(self, mail: Mail) -> bool:
        """Put a message into the queue. False: the queue is full, and the message is dropped."""
        try:
            self._queue.put_nowait(mail)
        except asyncio.QueueFull:
            log.warning("mail dropped: too many messages wait", kind=mail.kind, waiting=MAX_WAITING)
            return False
        return True

    async def settled(self) -> None:
        """Return once every message of the queue is sent or given up."""
        await self._queue.join()

    async def aclose(self) -> None:
        """Send what waits, for a few seconds; log how many messages are lost."""
        try:
            async with asyncio.timeout(DRAIN_LIMIT_S):
                await self.settled()
        except TimeoutError:
            log.warning("mail lost: the process stops", messages=self._queue.qsize())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_all(self) -> None:
        while True:
            mail = await self._queue.get()
            try:
                await self._deliver(mail)
            except Exception as error:
                # A fault of one message must not end the sending of all others.
                log.error("mail not sent", kind=mail.kind, reason=type(error).__name__)
            finally:
                self._queue.task_done()

    async def _deliver(self, mail: Mail) -> None:
        """Send a message, with further attempts where the reason may pass."""
        pauses = iter(PAUSES_S)
        while True:
            try:
                async with asyncio.timeout(SEND_LIMIT_S):
                    await self._send(mail)
                return
            except (SMTPException, OSError, TimeoutError) as error:
                # Not the error itself: the text of the server's reply may quote the address.
                status = _status_of(error)
                passes = (status is None or status < 500) and type(error) not in LASTING
                pause_s = next(pauses, None) if passes else None
                event = "mail not sent" if pause_s is None else "mail not sent yet"
                log.warning(event, kind=mail.kind, reason=type(error).__name__, status=status, retry_s=pause_s)
                if pause_s is None:
                    return
            await asyncio.sleep(pause_s)

    async def _send(self, mail: Mail) -> None:
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls is Tls.IMPLICIT,
            start_tls=server.tls is Tls.STARTTLS,
            local_hostname=self._sender.domain,
            timeout=SEND_LIMIT_S,
        )
        async with client:
            await client.send_message(build_message(mail, self._sender, self._reply_to))


def _status_of(error: Exception) -> int | None:
    """Return the status of the server's reply; None: there was none. From 500 on it does not pass."""
    if isinstance(error, SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
    return error.code if isinstance(error, SMTPResponseException) else None
