"""The payload arena; nothing in it is for Python."""
