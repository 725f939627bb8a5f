"""The screens of loyalty: programs with their figures, members, cards, the inbox of shops."""
