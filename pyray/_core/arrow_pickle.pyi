from typing import Any, final

@final
class Pickled:
    value: Any
    def __init__(self, value: Any) -> None: ...
