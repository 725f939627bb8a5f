"""Campaigns: batches of generated codes that are issued from a start time on, first come first served."""
