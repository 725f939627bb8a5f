"""Hashes of what names a customer, so that a member who joins or is erased finds their deliveries.

They hold no personal data in clear, but who knows an address can compute them: an erasure removes them too.
"""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

from issuer.loyalty.hooks.events import ShopCustomer
from issuer.loyalty.member import fold_email

KEY_SQL: Final = """sha256(uuid_send(m.client_id) || decode('00', 'hex') || convert_to(n.name, 'UTF8')
  || decode('00', 'hex') || convert_to(n.value, 'UTF8'))"""
"""The hash of one name of a member: `m` is a row of members, `n` has name and value."""


def customer_keys(client_id: UUID, *, email: str | None, ref: str | None) -> list[bytes]:
    """Return one hash for each name that is given. The client is part of it: no two tenants share a hash."""
    named = (("email", None if email is None else fold_email(email)), ("ref", ref))
    return [
        hashlib.sha256(b"\x00".join((client_id.bytes, name.encode(), value.encode()))).digest()
        for name, value in named
        if value
    ]


def keys_of_customer(client_id: UUID, customer: ShopCustomer) -> list[bytes]:
    return customer_keys(client_id, email=customer.email, ref=customer.ref)
