"""Sessions of people who use pages, and the tokens with which they sign in."""
