"""Maintenance tasks of the worker."""
