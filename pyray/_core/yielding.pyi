"""Running generators; nothing in it is for Python."""
