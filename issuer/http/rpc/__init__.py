"""Code that `make rpc` makes of the contracts under proto/. Not edited by hand."""
