"""Secrets in Postgres: encrypted, bound to their place, readable with every listed key, rotated to the first."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from pydantic import SecretStr

from issuer.access.secrets import (
    SecretKeyError,
    SecretKeys,
    SecretPlace,
    count_unreadable,
    new_key,
    put_secret,
    read_secret,
)
from issuer.recovery.doctor import Check, examine
from issuer.recovery.opening import GuardedStores
from issuer.settings import Settings
from tests.support.command import Command

PLACE = SecretPlace("shop:1", "webhook")


def keys_of(*keys: str) -> SecretKeys:
    return SecretKeys.from_settings(Settings(secret_key=SecretStr(",".join(keys))))


def test_a_value_decrypts_only_in_its_place() -> None:
    keys = keys_of(new_key())
    sealed = keys.seal(b"secret", PLACE)
    assert b"secret" not in sealed
    assert keys.seal(b"secret", PLACE) != sealed
    assert keys.open(sealed, PLACE) == b"secret"
    for other in (SecretPlace("shop:2", "webhook"), SecretPlace("shop:1", "smtp"), SecretPlace("shop:1w", "ebhook")):
        with pytest.raises(SecretKeyError, match="belongs to another place"):
            keys.open(sealed, other)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SecretKeyError):
            keys.open(bytes(changed), PLACE)


def test_older_keys_decrypt_and_the_first_encrypts() -> None:
    old, new = new_key(), new_key()
    sealed = keys_of(old).seal(b"secret", PLACE)
    both = keys_of(new, old)
    assert both.open(sealed, PLACE) == b"secret"
    assert keys_of(new).open(both.seal(b"secret", PLACE), PLACE) == b"secret"
    with pytest.raises(SecretKeyError, match="add the older key"):
        keys_of(new).open(sealed, PLACE)


WHOLE = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(bytes(16)).decode(), f"{WHOLE},", "ä" * 44])
def test_a_malformed_key_is_refused_without_its_value(key: str) -> None:
    with pytest.raises(SecretKeyError, match="issuer secrets new-key") as refused:
        SecretKeys.from_settings(Settings(secret_key=SecretStr(key)))
    assert not key or key not in str(refused.value)


async def test_rotation_encrypts_all_with_the_new_key(
    stores: GuardedStores, settings: Settings, tmp_path: Path
) -> None:
    old, new = new_key(), new_key()
    async with stores.postgres.acquire() as connection:
        for number in range(3):
            await put_secret(connection, keys_of(old), SecretPlace(f"shop:{number}", "webhook"), f"secret {number}")
        await put_secret(connection, keys_of(new), PLACE, "newer")
        assert await count_unreadable(connection, None) == 3
        assert await count_unreadable(connection, keys_of(new)) == 2
        assert not (await doctor(settings, stores, new)).ok
        assert (await doctor(settings, stores, f"{new},{old}")).ok
        assert not (await doctor(settings, stores, None)).ok

        command = Command(settings, tmp_path, "secrets", "rotate")
        command.environment["ISSUER_SECRET_KEY"] = new
        refused = await command()
        assert refused.status == 1
        assert "add the older key" in refused.err
        command.environment["ISSUER_SECRET_KEY"] = f"{new},{old}"
        assert (await command()).out.startswith("2 secrets encrypted")
        assert (await command()).out.startswith("0 secrets encrypted")

        assert await count_unreadable(connection, keys_of(new)) == 0
        assert (await doctor(settings, stores, new)).ok
        assert await read_secret(connection, keys_of(new), PLACE) == "newer"
        assert await read_secret(connection, keys_of(new), SecretPlace("shop:2", "webhook")) == "secret 2"
        assert await read_secret(connection, keys_of(new), SecretPlace("shop:2", "smtp")) is None
        audited = await connection.fetch("SELECT subject, detail::text FROM audit_log WHERE action = 'secrets.rotate'")
        assert {row["subject"] for row in audited} == {f"key:{keys_of(new).current.hex()}"}


async def doctor(settings: Settings, stores: GuardedStores, key: str | None) -> Check:
    own = settings.model_copy(update={"secret_key": None if key is None else SecretStr(key)})
    (check,) = [check for check in await examine(own, stores.postgres) if check.name == "secret key"]
    return check
