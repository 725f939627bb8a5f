"""`issuer up`: real servers, the API and the worker as one foreground command."""
