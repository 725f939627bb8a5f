"""The worker: brings events from the Redis streams into the Postgres ledger, and keeps pools and batches up to date."""
