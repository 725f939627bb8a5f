"""Time series of what pools answered, the pulses of API processes, and forecasts of when a pool will be empty."""
