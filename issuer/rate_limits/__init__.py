"""Rate limits as they are spent: leases of tokens."""
