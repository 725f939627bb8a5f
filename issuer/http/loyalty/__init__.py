"""Routes of loyalty: programs, their members, points and what belongs to them. One module per subject."""
