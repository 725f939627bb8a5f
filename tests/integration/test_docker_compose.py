"""docker-compose.yml: no secret has a default, and each container has only what it needs. No engine is needed."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import redis

from loadtest.processes import LoggedProgram, answers, free_port, python_module
from tests.support.api import REDEEM
from tests.support.environment import clean_environment
from tests.support.installation import issuer_command
from tests.support.programs import require
from tests.support.servers import STOP_LIMIT_S, PostgresServer, RedisServer, wait_until

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy" / "compose"
VARIABLE: Final = re.compile(r"\$\{(\w+):([-?])([^}]*)\}")
SECRETS: Final = ("POSTGRES", "OWNER", "API", "WORKER", "REDIS", "REDIS_ADMIN")


def config(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `docker-compose config` with the .env of the directory."""
    command = [str(require("docker-compose")), "-f", str(ROOT / "docker-compose.yml"), "--project-directory"]
    return subprocess.run(
        [*command, str(ROOT), "--env-file", str(directory / ".env"), "--profile", "cli", "config"],
        capture_output=True, text=True, cwd=directory, env=clean_environment(),
    )  # fmt: skip


def make_secrets(directory: Path) -> dict[str, str]:
    subprocess.run([DEPLOY / "secrets.sh"], cwd=directory, check=True, capture_output=True)
    return dict(line.split("=", 1) for line in (directory / ".env").read_text().splitlines())


def services(directory: Path) -> dict[str, Any]:
    """The services with the values of .env, also where docker-compose is not installed."""
    found: dict[str, Any] = read_yaml((ROOT / "docker-compose.yml").read_text())["services"]
    secrets = make_secrets(directory)
    for service in found.values():
        for name, value in service["environment"].items():
            service["environment"][name] = VARIABLE.sub(
                lambda part: secrets[part[1]] if part[2] == "?" else secrets.get(part[1], part[3]), value
            )
    return found


def read_yaml(text: str) -> Any:
    yaml: Any = importlib.import_module("yaml")
    return yaml.safe_load(text)


def test_docker_compose_reads_the_file_in_the_same_way(tmp_path: Path) -> None:
    ours = services(tmp_path)
    done = config(tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = read_yaml(done.stdout)["services"]
    assert {name: service["environment"] for name, service in theirs.items()} == {
        name: service["environment"] for name, service in ours.items()
    }


def test_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ISSUER_WORKERS=3\nISSUER_API_PASSWORD=\n")
    first = make_secrets(tmp_path)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert first["ISSUER_WORKERS"] == "3"
    values = [first[f"ISSUER_{name}_PASSWORD"] for name in SECRETS]
    assert len(set(values)) == len(SECRETS)
    assert min(map(len, values)) == 48
    assert make_secrets(tmp_path) == first


@pytest.mark.parametrize("missing", ["API", "REDIS_ADMIN"])
def test_a_missing_secret_is_named(tmp_path: Path, missing: str) -> None:
    secrets = make_secrets(tmp_path)
    del secrets[f"ISSUER_{missing}_PASSWORD"]
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    done = config(tmp_path)
    assert done.returncode != 0
    assert f"ISSUER_{missing}_PASSWORD" in done.stderr
    assert "make secrets" in done.stderr


def test_each_service_is_confined_and_knows_its_own_secrets_only(tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path)
    known = {}
    for name, service in services(tmp_path).items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "build" in service or service["user"] == "999:999"
        assert "build" in service or service["image"].rpartition(":")[2].count(".") >= 1, "a version, not a moving tag"
        text = " ".join(map(str, service["environment"].values()))
        known[name] = {
            secret.removeprefix("ISSUER_").removesuffix("_PASSWORD")
            for secret, value in secrets.items()
            if value in text
        }
    owner = {"OWNER", "API", "WORKER", "REDIS"}
    assert known == {
        "redis": {"REDIS", "REDIS_ADMIN"},
        "postgres": {"POSTGRES", "OWNER"},
        "migrate": owner,
        "cli": owner,
        "issuer": {"API", "REDIS"},
        "sync_worker": {"WORKER", "REDIS"},
    }


class ComposeValkey(RedisServer):
    """The bundled Valkey, started by the script of docker-compose.yml."""

    def __init__(self, directory: Path, passwords: dict[str, str]) -> None:
        super().__init__(directory)
        self.passwords = passwords

    def command(self) -> list[str]:
        environment = {
            "USERS_TEMPLATE": str(DEPLOY / "valkey-users.acl"),
            "USERS_FILE": str(self.directory / "users.acl"),
            "PATH": f"{self.program.parent}:{os.environ['PATH']}",
            **self.passwords,
        }
        assignments = [f"{name}={value}" for name, value in environment.items()]
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        # So that it is the user who may not debug.
        options += ["--enable-debug-command", "local"]
        return ["/usr/bin/env", *assignments, "/bin/sh", str(DEPLOY / "valkey.sh"), *options]

    def client(self, database: int = 0, user: str = "admin") -> redis.Redis:
        password = self.passwords.get(f"{user.upper()}_PASSWORD", "none")
        return redis.Redis(
            port=self.port, username=user, password=password, db=database, protocol=2, socket_timeout=10,
            driver_info=None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compose")


@pytest.fixture(scope="module")
def composed(directory: Path) -> dict[str, Any]:
    return services(directory)


@pytest.fixture(scope="module")
def valkey(directory: Path, composed: dict[str, Any]) -> Iterator[ComposeValkey]:
    environment = composed["redis"]["environment"]
    passwords = {name: environment[name] for name in ("ADMIN_PASSWORD", "ISSUER_PASSWORD")}
    with ComposeValkey(directory / "valkey", passwords) as server:
        yield server


@pytest.fixture(scope="module")
def postgres(directory: Path, composed: dict[str, Any]) -> Iterator[PostgresServer]:
    """A server that asks for passwords, with the owner that the script of docker-compose.yml creates."""
    with PostgresServer(directory / "postgres", durable=False) as server:
        (server.data / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        server.psql("SELECT pg_reload_conf()")
        subprocess.run(
            ["/bin/sh", DEPLOY / "postgres-owner.sh"], check=True, capture_output=True, timeout=STOP_LIMIT_S,
            env={
                **clean_environment(), **composed["postgres"]["environment"], "PGHOST": "127.0.0.1",
                "PGPORT": str(server.port), "PATH": f"{server.programs}:{os.environ['PATH']}",
            },
        )  # fmt: skip
        yield server


REFUSED: Final = (
    "FLUSHALL", "FLUSHDB", "CONFIG SET maxmemory-policy allkeys-lru", "CONFIG REWRITE", "DEBUG SLEEP 0", "KEYS *",
    "REPLICAOF NO ONE", "SHUTDOWN NOSAVE", "MONITOR", "ACL LIST", "CLIENT LIST", "PUBLISH issuer:x y", "SCRIPT FLUSH",
    "EVAL return 0", "FUNCTION LIST", "MODULE LIST", "SAVE", "BGREWRITEAOF", "SWAPDB 0 1", "RENAME issuer:a issuer:b",
    "COPY issuer:a issuer:b", "DUMP issuer:a", "DEL issuer:a", "GET other", "SET other 1",
)  # fmt: skip


@pytest.mark.long
def test_the_user_of_the_processes_may_do_nothing_else(valkey: ComposeValkey) -> None:
    with valkey.client(user="issuer") as client:
        for command in REFUSED:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    with valkey.client() as admin:
        admin.acl_log_reset()
    with valkey.client(user="health") as health:
        assert health.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            health.get("issuer:a")
    anonymous = redis.Redis(port=valkey.port, protocol=2, driver_info=None)
    with anonymous, pytest.raises(redis.exceptions.AuthenticationError):
        anonymous.ping()
    with valkey.client() as admin:
        admin.acl_log_reset()


@pytest.mark.long
def test_the_processes_work_with_these_rights(
    composed: dict[str, Any], valkey: ComposeValkey, postgres: PostgresServer, directory: Path
) -> None:
    """Migrate, create a key, load codes, redeem one, record it, reconcile, recover: each with its own secrets."""

    def environment(service: str) -> dict[str, str]:
        here = {"redis:6379": f"127.0.0.1:{valkey.port}", "postgres:5432": f"127.0.0.1:{postgres.port}"}
        found = clean_environment(ISSUER_PARTITIONS="4", **composed[service]["environment"])
        for name, address in here.items():
            found = {key: value.replace(f"@{name}/", f"@{address}/") for key, value in found.items()}
        return found

    def command(service: str, *words: str) -> str:
        done = subprocess.run(
            issuer_command(*words), env=environment(service), cwd=directory, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = command("migrate", "migrate")
    assert "created the role issuer_api\ncreated the role issuer_worker\n" in printed
    client = uuid4()
    (directory / "codes.csv").write_text(f"client_id,code\n{client},ONE\n{client},TWO\n")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve = issuer_command("serve", "--port", str(port))
    worker = python_module("sync_worker")
    with ExitStack() as stack:
        for service, program in (("issuer", serve), ("sync_worker", worker)):
            process = LoggedProgram(program, directory / f"{service}.log", environment=environment(service))
            stack.callback(process.stop)
            process.start(lambda: True, service)
        wait_until(lambda: answers(f"{url}/readyz"), "the API is ready")
        key = json.loads(command("cli", "keys", "create", "--name", "x", "--scope", "redeem", "--json"))["secret"]
        loaded = json.loads(command("cli", "preload", "codes.csv", "--batch-name", "First", "--json"))
        body = {"batchid": loaded["batch_id"], "clientid": str(client), "customerid": str(uuid4())}
        headers = {"Authorization": f"Bearer {key}"}
        responses: list[httpx.Response] = []

        def redeemed() -> bool:
            responses.append(httpx.post(url + REDEEM, json=body, headers=headers, timeout=10))
            return responses[-1].status_code == 200

        wait_until(redeemed, "a code is redeemed")
        wait_until(lambda: postgres.psql("SELECT code FROM redemptions", "issuer") == "ONE", "it is recorded")
        assert "WRONG" not in command("cli", "doctor").replace("WRONG partitions", "")
        command("cli", "reconcile")
    valkey.kill9()
    valkey.start()
    command("cli", "recover")
    with valkey.client() as admin:
        assert admin.acl_log() == [], "a command that deploy/compose/valkey-users.acl does not list"
    for log in directory.glob("*.log"):
        assert "more rights" not in log.read_text()
        assert "lacks rights" not in log.read_text()
