"""The hot path between HTTP and Redis: gathering, sending, repeating."""
