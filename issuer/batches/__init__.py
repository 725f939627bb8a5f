"""Batches: their data, their changes, and what Redis stores of them."""
