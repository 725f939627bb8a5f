"""The contract between API and worker: Redis keys, events, outcomes, scripts."""
