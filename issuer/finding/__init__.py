"""One search for everything that names a code, a customer, an order or a card, and the time line of what it finds."""
