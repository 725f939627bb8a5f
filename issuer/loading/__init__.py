"""Codes on their way in: from a file to Postgres, from Postgres to Redis."""
