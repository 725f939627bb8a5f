"""The screen Find: one box, and the time line of what it finds."""
