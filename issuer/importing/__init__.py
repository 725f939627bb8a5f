"""Taking over what another service has: its batches, its codes and their customers."""
