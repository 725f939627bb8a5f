"""Screens of who may do what, who did what, and how the installation is set: keys, operators, audit, settings."""
