"""Load and benchmarks: what the issuer does under pressure, and what it costs."""
