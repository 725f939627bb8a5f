"""Registered clients: the ids that operators gave them, and their names."""
