"""The ledger: recording, reading, reconciliation, dead letters and erasure."""
