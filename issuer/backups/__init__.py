"""Copies of an installation that survive its machine."""
