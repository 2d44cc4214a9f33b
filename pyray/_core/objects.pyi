"""The life of an object's record; nothing in it is for Python."""
