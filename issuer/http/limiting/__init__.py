"""Rate limits and failed-lookup limits of HTTP requests."""
