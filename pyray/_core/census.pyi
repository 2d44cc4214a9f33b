WAITING: int
READY: int
CLAIMED: int
RUNNING: int
AT_NODE: int
ENDING: int
ERROR: int
NESTED: int
ACTOR: int
INLINE: int

LiveTask = tuple[
    bytes, bytes, int, int, int | None, int, int, bool, int, int, int
]
LiveObject = tuple[
    int, bytes, bool, int, int, int, list[int], tuple[int, int] | None
]

def calling_task() -> tuple[bytes, int, bool, int, int, bool] | None: ...
def chunks() -> int: ...
def tasks_in(chunk: int) -> list[LiveTask]: ...
def objects_in(chunk: int) -> list[LiveObject]: ...
def used_in(chunk: int) -> list[tuple[int, int]]: ...
def has_tasks(chunk: int) -> bool: ...
def process(p: int) -> tuple[int, int, int]: ...
