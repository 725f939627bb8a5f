"""Generating: the format of codes, drawing them at random, and the jobs that add them to a batch."""
