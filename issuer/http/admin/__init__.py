"""Operator routes: batches, uploads, generation, redemptions, reports, audit, health and the API document."""
