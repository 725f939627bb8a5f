"""What fakeredis cannot show. `test_gaps.py` proves each line, on fakeredis and on the servers."""

from __future__ import annotations

from enum import StrEnum

import pytest


class Gap(StrEnum):
    """A property of a server that fakeredis lacks."""

    MAXMEMORY = "CONFIG SET maxmemory is accepted, and no write is refused"
    REPLICAS = "there are no replicas: WAIT, ROLE and REPLICAOF are unknown commands"
    VERSION = "scripts see no version number, so redeem.lua writes with SET, never with MSETEX"
    IDENTITY = "INFO is an unknown command: there is no run_id that the fence could compare"
    PERSISTENCE = "CONFIG GET is an unknown command, and nothing outlives the process: no append-only file, no fsync"
    SLOTS = "CLUSTER is an unknown command: there are no slots, and no key is in the wrong one"
    SANDBOX = "the sandbox is open: a script can replace redis.call for all later scripts"
    FLAGS = "a first line with script flags (#!lua) is a syntax error"
    DATABASES = "there are 16 databases"
    SPEED = "every command of a script is executed by Python: a call of thousands of requests takes seconds"


def servers_only(gap: Gap) -> pytest.MarkDecorator:
    """Mark a case that fakeredis cannot run because of a gap."""
    return pytest.mark.servers_only(gap)
