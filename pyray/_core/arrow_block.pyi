"""Memory that exports itself as a read-only buffer; nothing in it is for Python."""
