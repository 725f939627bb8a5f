"""The codes of one (batch, client): counters, stock, loader."""
