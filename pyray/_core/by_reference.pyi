"""What joins shared arrays to the serializer; nothing in it is for Python."""
