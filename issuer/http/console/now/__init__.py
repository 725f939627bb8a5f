"""The screen Now: what the whole installation does at this moment."""
