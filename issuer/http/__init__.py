"""The HTTP service: application, routes, documents, metrics, and the guard at the socket."""
