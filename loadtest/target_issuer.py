"""The issuer that a load targets, and batches created there through its HTTP API."""

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


class IssuerNotFoundError(Exception):
    """No issuer runs, or it refuses the requests. The message says what to do."""


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """A batch with codes of one client."""

    batch_id: UUID
    client_id: UUID
    codes: int

    def request(self, customer_id: UUID, *, client_id: UUID | None = None) -> dict[str, str]:
        """Return the body of a redemption."""
        client = client_id or self.client_id
        return {"batchid": str(self.batch_id), "clientid": str(client), "customerid": str(customer_id)}


@dataclass(frozen=True, slots=True)
class TargetIssuer:
    """A running issuer. `api_key` is None if it requires none."""

    url: str
    api_key: str | None

    @classmethod
    def find(cls) -> Self:
        """Return the issuer at ISSUER_URL, or the one that `make up` runs in ISSUER_DATA_DIR (.issuer).

        Raises IssuerNotFoundError if neither exists.
        """
        if url := os.environ.get("ISSUER_URL"):
            return cls(url.rstrip("/"), os.environ.get("ISSUER_API_KEY"))
        path = Path(os.environ.get("ISSUER_DATA_DIR", ".issuer"))
        directory = DataDirectory(path)
        running = directory.running()
        if running is None:
            raise IssuerNotFoundError(
                f"no issuer runs in {path}: start `make up`, or set ISSUER_URL and ISSUER_API_KEY"
            )
        return cls(running.url, directory.api_key.read_text().strip() if directory.api_key.exists() else None)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def make_batch(self, name: str, codes: int, rules: dict[str, Any] | None = None) -> TargetBatch:
        """Create a batch with `codes` codes of a new client. Raises IssuerNotFoundError if the upload is refused."""
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
            raise IssuerNotFoundError(
                f"{self.url} refused the upload of codes: {response.status_code} {response.text[:300]}"
            )
        return TargetBatch(UUID(response.json()["batch_id"]), client_id, codes)

    def make_batches(
        self, name: str, count: int, codes: int, rules: dict[str, Any] | None = None
    ) -> Sequence[TargetBatch]:
        return [self.make_batch(f"{name} {number}", codes, rules) for number in range(1, count + 1)]
