"""Batches: what they are, how they change, and what Redis knows of them."""
