"""The ledger: what goes into it, what is read from it, what it must add up to."""
