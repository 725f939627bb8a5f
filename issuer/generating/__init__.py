"""Codes made by the machine: what they look like, how they are drawn, and how they get into a batch."""
