"""The pages of members, /l/{program}: sign in, see points and history, take rewards, manage one's own data."""
