"""Operators: the people who sign in to the console, what they may do there, and the links that sign one in."""
