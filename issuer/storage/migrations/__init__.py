"""The schema of the database, in the layout that Alembic expects."""
