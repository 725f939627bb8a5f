"""The coupon service: its messages, its client and the ASGI application around it."""
