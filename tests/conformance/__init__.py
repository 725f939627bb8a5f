"""The conformance suite of the Lua scripts: the same cases on every store that runs them.

A case is a test that uses the fixture `store`, or `client`, `partition` and `shop`, which are built on it. It runs once
on each store of `tests.conformance.conftest`: on fakeredis, inside the test process, with the unit tests; on Valkey and
on Redis 7, as started servers, with the integration tests. What fakeredis cannot show is listed in
`tests.conformance.gaps`; a case that needs it is marked `servers_only` and runs on servers alone.
"""
