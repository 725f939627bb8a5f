"""Loyalty: programs, accounts of points, and the ledger of their entries."""
