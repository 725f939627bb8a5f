"""The registration of API processes for an epoch, and its end: receipts recorded, registrations settled."""
