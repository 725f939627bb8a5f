"""The browser of a visitor of the member pages, without a screen: it keeps cookies and sends forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Final

import httpx

from tests.support.mail_server import TestMailServer

FORM_TOKEN: Final = re.compile(r'name="form_token" value="([0-9a-f]+)"')
LINK: Final = re.compile(r"https?://\S+/link/\S+")


@dataclass(slots=True)
class PageBrowser:
    """One browser at the pages of a program. `page`: the last response, behind redirects."""

    client: httpx.AsyncClient
    root: str
    headers: dict[str, str] = field(default_factory=dict)
    page: httpx.Response = field(init=False)
    cookies: dict[str, str] = field(default_factory=dict)

    async def open(self, rest: str = "") -> str:
        """Open a page and return its text."""
        return await self._follow("GET", self.root + rest)

    async def send(self, rest: str, **fields: str) -> str:
        """Send a form, with the token of the last page, and return the text of the page behind it."""
        found = FORM_TOKEN.search(self.page.text)
        token = {} if found is None else {"form_token": found[1]}
        return await self._follow("POST", self.root + rest, data=token | fields)

    async def _follow(self, method: str, path: str, **options: Any) -> str:
        for _ in range(5):
            headers = self.headers | {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
            self.page = response = await self.client.request(method, path, headers=headers, **options)
            self._keep(response)
            if response.status_code != 303:
                return response.text
            method, path, options = "GET", response.headers["location"], {}
        raise AssertionError("too many redirects")

    def _keep(self, response: httpx.Response) -> None:
        # By hand: the client's own jar keeps Secure cookies from the address of a test.
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in line:
                self.cookies[name] = value


def code_in(message: EmailMessage) -> str:
    """The code that a message brings, which its subject and both of its parts show."""
    code = str(message["Subject"]).partition(" ")[0]
    assert re.fullmatch(r"[0-9]{6}", code)
    assert all(code in part.get_content() for part in message.iter_parts())
    return code


def link_in(message: EmailMessage) -> str:
    plain = next(message.iter_parts()).get_content()
    found = LINK.search(plain)
    assert found is not None
    return found[0]


def last_mail(server: TestMailServer, to: str) -> EmailMessage:
    _, recipients, message = server.messages[-1]
    assert recipients == [to]
    return message
