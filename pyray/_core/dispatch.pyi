"""CPU tokens, parking and waking; nothing in it is for Python."""
