"""Load scenarios, benchmarks and profiling."""
