"""The worker: records the events of the Redis streams in the Postgres ledger, and runs the maintenance tasks."""
