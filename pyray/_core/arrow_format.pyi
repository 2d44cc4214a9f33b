"""Arrow IPC messages as constant templates; nothing in it is for Python."""
