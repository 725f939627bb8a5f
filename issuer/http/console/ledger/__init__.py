"""The screen Ledger: whether every issued code is accounted for, and what could not be recorded."""
