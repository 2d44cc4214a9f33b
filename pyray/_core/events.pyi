FAILED: int
DIED: int
CANCELLED: int
CREATES: int
NEVER: int

Event = tuple[bytes, bytes, int, int, int, int, int, int, int, int]

def processes() -> int: ...
def read(p: int, retries: bool = False) -> list[Event]: ...
