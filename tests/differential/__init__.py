"""The differential test of the fast path and the ASGI path.

The same bytes are sent to two installations that hold the same data. One of them has the fast path, the other one
answers every request through ASGI. The answers, and in the end the ledgers, must be equal.
"""
