"""Campaigns: batches with generated codes that go to whoever asks first, from a start on."""
