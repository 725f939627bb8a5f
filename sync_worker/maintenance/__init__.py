"""The maintenance tasks of the worker."""
