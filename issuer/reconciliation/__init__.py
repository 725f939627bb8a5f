"""The reconciliation of a whole installation: codes, coupons and points; and its runs, which the worker makes."""
