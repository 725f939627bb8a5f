"""PgBouncer in front of the tests' PostgreSQL, with nothing configured but its mode."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from typing import Final

from tests.support.programs import require
from tests.support.servers import PostgresServer, ServerProcess

_CONFIGURATION: Final = """
[databases]
* = host=127.0.0.1 port={postgres}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
"""
_USERS: Final = '"postgres" ""\n"issuer_api" ""\n"issuer_worker" ""\n'


class PgBouncer(ServerProcess):
    """A PgBouncer with its defaults, in this mode."""

    name = "pgbouncer"

    def __init__(self, directory: Path, postgres: PostgresServer, mode: str) -> None:
        super().__init__(directory)
        self.program = require("pgbouncer")
        self._postgres = postgres
        self._mode = mode

    def command(self) -> list[str]:
        users, configuration = self.directory / "users.txt", self.directory / "pgbouncer.ini"
        users.write_text(_USERS)
        configuration.write_text(
            _CONFIGURATION.format(postgres=self._postgres.port, port=self.port, users=users, mode=self._mode)
        )
        for file in (users, configuration):
            file.chmod(0o644)
        # It refuses to run as root.
        return [
            str(self.program),
            *(["-u", pwd.getpwuid(65534).pw_name] if os.geteuid() == 0 else []),
            str(configuration),
        ]

    def is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def url(self, url: str) -> str:
        """Return the URL of a database of the server, by way of this pooler."""
        return url.replace(f":{self._postgres.port}/", f":{self.port}/")
