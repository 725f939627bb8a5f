"""Where a load goes: the URL and the API key of an issuer, and batches made there through its HTTP API."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID, uuid4

import requests

from issuer.embedded.datadir import DataDirectory

TIMEOUT_S: Final = 60.0


class NoShopError(Exception):
    """There is no issuer to load, or it does not let us in. The message says what to do."""


@dataclass(frozen=True, slots=True)
class ShopBatch:
    """A batch with codes of one client."""

    batch_id: UUID
    client_id: UUID
    codes: int

    def request(self, customer_id: UUID, *, client_id: UUID | None = None) -> dict[str, str]:
        """The body of a redemption."""
        client = client_id or self.client_id
        return {"batchid": str(self.batch_id), "clientid": str(client), "customerid": str(customer_id)}


@dataclass(frozen=True, slots=True)
class ShopInstallation:
    """An issuer that answers. `api_key` None: it asks for none."""

    url: str
    api_key: str | None

    @classmethod
    def find(cls) -> Self:
        """ISSUER_URL and ISSUER_API_KEY, or the `make up` that runs on ISSUER_DATA_DIR (.issuer).

        Raises NoShopError.
        """
        if url := os.environ.get("ISSUER_URL"):
            return cls(url.rstrip("/"), os.environ.get("ISSUER_API_KEY"))
        path = Path(os.environ.get("ISSUER_DATA_DIR", ".issuer"))
        directory = DataDirectory(path)
        running = directory.running()
        if running is None:
            raise NoShopError(f"nothing runs on {path}: start `make up`, or set ISSUER_URL and ISSUER_API_KEY")
        return cls(running.url, directory.api_key.read_text().strip() if directory.api_key.exists() else None)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def make_batch(self, name: str, codes: int, rules: dict[str, Any] | None = None) -> ShopBatch:
        """A new batch with so many codes of a new client. Raises NoShopError."""
        client_id, run = uuid4(), os.urandom(4).hex()
        lines = ["client_id,code", *(f"{client_id},{run.upper()}-{number:06d}" for number in range(1, codes + 1))]
        response = requests.post(
            f"{self.url}/api/v1/codes/upload",
            headers=self.headers,
            data={"batch_name": f"{name} {run}", "rules": json.dumps(rules or {})},
            files={"file": ("codes.csv", "\n".join(lines), "text/csv")},
            timeout=TIMEOUT_S,
        )
        if response.status_code != 200:
            raise NoShopError(f"{self.url} does not take codes: {response.status_code} {response.text[:300]}")
        return ShopBatch(UUID(response.json()["batch_id"]), client_id, codes)

    def make_batches(
        self, name: str, count: int, codes: int, rules: dict[str, Any] | None = None
    ) -> Sequence[ShopBatch]:
        return [self.make_batch(f"{name} {number}", codes, rules) for number in range(1, count + 1)]
