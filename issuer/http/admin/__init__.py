"""Routes of operators: batches, uploads, generation, reports, keys, health."""
