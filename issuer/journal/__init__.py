"""The receipt journal of an API host."""
