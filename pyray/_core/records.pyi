"""Records of tasks and objects; nothing in it is for Python."""
