"""A fuzzer of the framing of HTTP, through raw sockets against a real API process: `make fuzz`."""
