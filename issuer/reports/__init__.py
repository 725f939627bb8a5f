"""Reports: whole selections of a table, streamed as CSV, NDJSON or XLSX. Memory does not grow with their rows."""
