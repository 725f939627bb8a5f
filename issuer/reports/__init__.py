"""Reports: all selected rows of a table, streamed as CSV, NDJSON or XLSX. Memory does not grow with the rows."""
