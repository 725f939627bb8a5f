"""Orders from shops: signed deliveries, and what they say about an order, in one form for all shops."""
