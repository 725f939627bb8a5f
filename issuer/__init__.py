"""Issue unique codes at the speed of Redis, with the bookkeeping of Postgres."""

__version__ = "0.1.0"
