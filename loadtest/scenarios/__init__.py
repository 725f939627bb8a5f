"""Load scenarios, one per module, each with the responses that it expects."""
