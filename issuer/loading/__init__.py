"""Loading: codes of a CSV file are checked, numbered in Postgres and loaded into Redis."""
