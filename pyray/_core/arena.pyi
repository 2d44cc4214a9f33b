"""What this process knows of the payload arena; nothing in it is for Python."""
