"""From gathered tokens to Arrow messages; nothing in it is for Python."""
