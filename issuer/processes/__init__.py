"""Start and supervise processes: the API, and the children of `issuer up`."""
