"""The schema of the database, as alembic finds it."""
