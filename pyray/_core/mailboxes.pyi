"""Mailboxes of actors; nothing in it is for Python."""
