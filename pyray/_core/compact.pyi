"""The compact form of small values; nothing in it is for Python."""
