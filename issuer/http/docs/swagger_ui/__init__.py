"""Swagger UI as its project publishes it; `make viewer` writes the files from `origin.json`."""
