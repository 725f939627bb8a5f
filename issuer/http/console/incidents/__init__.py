"""The screen Incidents: what was lost with a Redis server, what that costs, and what an operator decides about it."""
