"""A whole small session in one script, for tests that run it in strange surroundings.

It says how it went in one line: ``OK`` or the error's class and text, to the file that
TEST_RESULT names, else to its standard output.
"""

import os
import sys

import pyray as ray


def session() -> None:
    """Tasks, an actor, a large object, output."""
    ray.init(num_cpus=2, object_store_memory=64 << 20)
    assert ray.get([double.remote(i) for i in range(20)]) == [2 * i for i in range(20)]
    keeper = Keeper.remote()
    assert ray.get(keeper.add.remote(1)) == 1
    assert len(ray.get(ray.put(bytes(5 << 20)))) == 5 << 20
    assert ray.get(double.options(num_cpus=2).remote(21)) == 42
    ray.get(talk.remote())
    ray.shutdown()


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def talk() -> None:
    print("said in a task")


@ray.remote
class Keeper:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total


def main() -> None:
    fds = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    try:
        session()
        said = "OK"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    ray.shutdown()
    if fds is not None:
        left = set(os.listdir("/proc/self/fd")) - fds
        assert not left, f"descriptors left: {left}"
    if name := os.environ.get("TEST_RESULT"):
        with open(name, "w") as f:
            f.write(said)
    else:
        sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
