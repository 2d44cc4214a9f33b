"""Ready queues; nothing in it is for Python."""
