"""The order of the packages, which tests and docs/architecture.md state alike."""

from __future__ import annotations

from typing import Final

LAYERS: Final = (
    "instants names ids money paging networks origins rate_limit server_urls mail_server settings misspelt logs",
    "contract",
    "storage",
    "pools",
    "rate_limits access journal engine",
    "mail sessions operators clients batches ledger registration loading generating importing series",
    "coupons campaigns loyalty holds",
    "reports webhooks recovery finding reconciliation",
    "http",
    "processes embedded backups cli __main__",
)
"""A package imports only from the lines above its own and from the packages to its left (docs/architecture.md).

`holds` and `webhooks` are reserved for planned features: they have a place, but no code yet.
"""
