"""Python objects into the store form; nothing in it is for Python."""
