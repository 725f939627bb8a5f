"""The screens of batches: list, one batch, create, upload, generate, change."""
