"""`issuer up`: a real Redis, a real Postgres, the API and the worker as one foreground command."""
