"""The codes of one (batch, client): counters, stock, loading from Postgres to Redis, top-ups."""
