"""The HTTP protocol at the socket."""
