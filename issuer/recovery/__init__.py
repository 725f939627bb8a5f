"""What happens when Redis comes back, and what it takes to lose nothing by it."""
