"""Coupons: one code that may be used a number of times until a date. To Redis each is a batch of a kind of its own."""
