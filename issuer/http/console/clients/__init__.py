"""The screens of clients: list, register, rename."""
