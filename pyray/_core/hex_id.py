"""Ids as text."""


class HexID(str):
    """An id in hexadecimal digits, with the methods of Ray's id objects beside a string's."""

    __slots__ = ()

    def hex(self) -> str:
        """The digits."""
        return str(self)

    def binary(self) -> bytes:
        """The bytes that the digits stand for."""
        return bytes.fromhex(self)

    def is_nil(self) -> bool:
        """Whether this is the id of nothing; there is no such id here."""
        return False
