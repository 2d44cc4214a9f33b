"""Pins of objects that are looked at; nothing in it is for Python."""
