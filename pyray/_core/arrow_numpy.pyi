"""All that the serializer does with numpy's C interface; nothing in it is for Python."""
