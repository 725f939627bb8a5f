"""The boundaries to Postgres and Redis, and the fence."""
