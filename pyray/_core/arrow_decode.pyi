"""Python objects from the store form; nothing in it is for Python."""
