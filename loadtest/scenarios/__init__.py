"""What customers do: one scenario a module, each with what it expects to be answered."""
