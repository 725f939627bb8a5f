"""Counters and gauges of GET /metrics."""
