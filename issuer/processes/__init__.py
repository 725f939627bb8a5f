"""Starts and supervises processes: the API, and the children of `issuer up`."""
