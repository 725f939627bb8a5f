"""Error responses as application/problem+json."""
