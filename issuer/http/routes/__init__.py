"""The routes, one module for each HTTP surface: parse, ask one module of the service, answer."""
