"""The design of the recovery as an executable model: an explicit-state model checker of one pool.

One partition, one pool of four codes, two API processes on two hosts with a journal each, one worker, one Redis address
(and an old primary that may live on behind it), Postgres, customers a (keys a1, a2) and b (key b1), a limit of one code
for each customer. Every function named `…_steps` yields what can happen next: each is one atomic step of the system. A
pause (SIGSTOP) is nothing but a process that takes no step; that a recovery stops waiting for it is a fault ("silent").

Not modelled: clocks, the script's deadline (a call that runs late meets the epoch), memory limits, several partitions,
several workers, dead letters, the kept result of a call id (a repeat behaves as a replay of its idempotency key), a
recovery that has lost its lock. The fault scenarios of tests/faults cover these.
"""
