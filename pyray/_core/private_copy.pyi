"""A process's own copy of a value's arrays, to be written to; nothing in it is for Python."""
