"""What the API and the worker agree on: Redis keys, events, outcomes, scripts."""
