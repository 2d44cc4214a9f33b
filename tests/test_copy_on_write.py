"""`writable=True`: arrays that may be written to, which nobody else sees.

Large ones (LARGE) are mapped and copied page by page, small ones (SMALL) copied at once; what is
said of one holds of the other.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions

LARGE = 1 << 18
SMALL = 1 << 10
both = pytest.mark.parametrize("size", [SMALL, LARGE])
MEGABYTE = 1 << 20


def elsewhere(ray: Any, ref: Any) -> Any:
    """An object's value as another process sees it."""

    @ray.remote
    def look(values: list[Any]) -> Any:
        return pyray.get(values[0])

    return ray.get(look.remote([ref]))


# ---- get ---------------------------------------------------------------------------------------


@both
def test_an_array_can_be_written_to_and_the_store_never_changes(ray: Any, size: int) -> None:
    ref = ray.put(np.arange(size))
    mine = ray.get(ref, writable=True)
    assert mine.tolist() == list(range(size))
    mine[:] = 7
    mine[::3] += 1
    assert mine[0] == 8 and mine[1] == 7 and mine[-1] in (7, 8)
    assert ray.get(ref).tolist() == list(range(size))
    assert not ray.get(ref).flags.writeable
    assert elsewhere(ray, ref).tolist() == list(range(size))


@both
def test_two_gets_are_two_arrays(ray: Any, size: int) -> None:
    ref = ray.put(np.zeros(size))
    a, b = ray.get([ref, ref], writable=True)
    c = ray.get((ref,), writable=True)[0]
    a += 1
    b += 2
    assert (a[0], b[0], c[0], ray.get(ref)[0]) == (1, 2, 0, 0)
    assert (a[-1], b[-1], c[-1], ray.get(ref)[-1]) == (1, 2, 0, 0)


def kinds(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 100, size)
    record = np.zeros(size, dtype=[("a", "i4"), ("b", "f8", (2,)), ("c", "S3")])
    record["a"] = base
    return {
        **{t: base.astype(t) for t in ("i1", "u2", "i8", "f2", "f4", "f8", "?", "c8", "c16")},
        "other byte order": base.astype(">i4"),
        "dates": base.astype("M8[s]"),
        "strings": base.astype("U5"),
        "structured": record,
        "fortran": np.asfortranarray(base.reshape(4, -1).astype("f8")),
        "fortran strings": np.asfortranarray(base.reshape(4, -1).astype("S5")),
        "three axes": base.reshape(2, -1, 4),
        "scattered": base[::2],
        "backwards": base[::-1],
    }


@both
def test_all_sorts_of_arrays(ray: Any, size: int) -> None:
    made = kinds(size)
    ref = ray.put(made)
    got = ray.get(ref, writable=True)
    for name, array in got.items():
        assert array.dtype == made[name].dtype and np.array_equal(array, made[name]), name
        assert array.flags.fnc == made[name].flags.fnc, name
        assert array.flags.aligned and array.flags.writeable, name
        view = memoryview(array.view("u1") if name == "dates" else array)
        assert not view.readonly, name
        if array.dtype.names:
            array["a"] = -1
            array["b"][:, 1] = 3
        array[...] = np.zeros((), array.dtype)
        assert not np.array_equal(array, made[name]), name
    for name, array in ray.get(ref).items():
        assert np.array_equal(array, made[name]), name


def test_arrays_of_odd_shapes(ray: Any) -> None:
    ref = ray.put([np.array(5.0), np.zeros((0, 3)), np.zeros((3, 0), "U2"), np.ones(1)])
    point, empty, none, one = ray.get(ref, writable=True)
    point[...] = 6
    one += 1
    empty[:] = 1
    assert (float(point), empty.shape, none.shape, one[0]) == (6.0, (0, 3), (3, 0), 2.0)
    assert float(ray.get(ref)[0]) == 5.0
    assert all(a.flags.writeable for a in (point, empty, none, one))


class Model:
    """Has its arrays in fields, or in a pickle."""

    def __init__(self, size: int) -> None:
        self.weights = np.zeros(size)
        self.layers = [np.ones(size, "f4"), {"bias": np.full(size, 2)}]


class Pickling(Model):
    __slots__ = ()

    def __reduce__(self) -> Any:
        return restored, (self.__dict__,)


def restored(fields: dict[str, Any]) -> Pickling:
    made = Pickling(0)
    made.__dict__.update(fields)
    return made


@both
@pytest.mark.parametrize("cls", [Model, Pickling])
def test_arrays_inside_values(ray: Any, size: int, cls: type[Model]) -> None:
    ref = ray.put({"model": cls(size), "text": "x" * size, "pair": (np.zeros(size), b"y" * size)})
    got = ray.get(ref, writable=True)
    for array in (got["model"].weights, got["model"].layers[0], got["pair"][0]):
        array += 3
    got["model"].layers[1]["bias"][size // 2] = 9
    assert got["model"].weights[-1] == 3 and got["model"].layers[0][-1] == 4
    assert got["text"] == "x" * size and got["pair"][1] == b"y" * size
    again = ray.get(ref)
    assert again["model"].weights[-1] == 0 and again["model"].layers[0][-1] == 1
    assert again["model"].layers[1]["bias"].tolist() == [2] * size
    assert again["pair"][0][-1] == 0


@both
def test_an_array_met_twice_is_one_array(ray: Any, size: int) -> None:
    array, record = np.zeros(size), np.zeros(size, "i4,i4")
    ref = ray.put({"a": array, "b": [array, record], "c": (record,)})
    got = ray.get(ref, writable=True)
    got["a"][5] = 1
    got["c"][0]["f1"] = 4
    assert got["a"] is got["b"][0] and got["b"][1] is got["c"][0]
    assert ray.get(ref)["b"][0][5] == 0


@both
def test_pandas(ray: Any, size: int) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": np.arange(size), "y": np.ones(size), "z": ["t"] * size})
    ref = ray.put(frame)
    got = ray.get(ref, writable=True)
    got.loc[size - 1, "x"] = -1
    got["y"] *= 2
    got.iloc[0, 1] = 5.0
    assert got["x"].iloc[-1] == -1 and got["y"].tolist()[:2] == [5.0, 2.0]
    pd.testing.assert_frame_equal(ray.get(ref), frame)
    # Its blocks themselves, past pandas' own copying on write.
    blocks = [b.values for b in ray.get(ref, writable=True)._mgr.blocks]
    assert all(b.flags.writeable for b in blocks if isinstance(b, np.ndarray))


@both
def test_read_only_parts_of_pickles_can_be_had_writable(ray: Any, size: int) -> None:
    """What came from the store is read-only, and pickle notes that of whatever is pickled."""
    ref = ray.put(ray.get(ray.put(Pickling(size))))
    frozen = Pickling(size)
    for array in (frozen.weights, frozen.layers[0]):
        array.flags.writeable = False
    for one in (ref, ray.put(frozen)):
        got = ray.get(one, writable=True)
        got.weights += 1
        got.layers[0][-1] = 5
        assert (got.weights[-1], ray.get(one).weights[-1]) == (1, 0)
    if size == LARGE:
        assert not ray.get(ref).weights.flags.writeable


class Exporter:
    """Something that is no array, whose memory pickle hands out."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: int) -> Any:
        import pickle

        return Exporter, (pickle.PickleBuffer(self.data),)


@both
def test_buffers_of_other_objects(ray: Any, size: int) -> None:
    ref = ray.put([Exporter(bytearray(size)), bytearray(size)])
    exporter, array = ray.get(ref, writable=True)
    assert not exporter.data.readonly
    exporter.data[size - 1] = 1
    array[0] = 1
    assert bytes(ray.get(ref)[0].data) == bytes(size) == bytes(ray.get(ref)[1])


def test_values_without_arrays(ray: Any) -> None:
    values = [None, 1, "x" * 5000, b"y" * 5000, [1, [2]], {"a": 1.5}, list(range(10_000))]
    refs = [ray.put(v) for v in values]
    assert ray.get(refs, writable=True) == values
    before = len(helpers.store_mappings())
    kept = ray.get(ray.put(["z" * LARGE, list(range(LARGE))]), writable=True)
    assert len(kept) == 2 and len(helpers.store_mappings()) == before


@both
def test_ids_inside_a_value(ray: Any, size: int) -> None:
    inner = ray.put(np.zeros(size))
    ref = ray.put({"ids": [inner], "array": np.ones(size)})
    del inner
    got = ray.get(ref, writable=True)
    got["array"] += 1
    assert not ray.get(got["ids"][0]).flags.writeable  # an id is an id
    own = ray.get(got["ids"][0], writable=True)
    own += 5
    assert (got["array"][-1], own[-1], ray.get(got["ids"][0])[-1]) == (2, 5, 0)


@both
def test_results_of_tasks_generators_and_actors(ray: Any, size: int) -> None:
    @ray.remote
    def make(n: int) -> Any:
        return np.zeros(n)

    @ray.remote
    def several(n: int) -> Any:
        for i in range(3):
            yield np.full(n, i)

    @ray.remote
    class Maker:
        def __init__(self) -> None:
            self.kept = np.zeros(size)

        def make(self) -> Any:
            return self.kept

    maker = Maker.remote()
    refs = [make.remote(size), *several.remote(size), maker.make.remote()]
    for ref in refs:
        mine = ray.get(ref, writable=True)
        mine -= 10
        assert mine[-1] == ray.get(ref)[-1] - 10
    assert ray.get(maker.make.remote())[0] == 0


def test_the_flag_can_be_taken_and_given_back(ray: Any) -> None:
    for size in (SMALL, LARGE):
        mine = ray.get(ray.put(np.zeros(size)), writable=True)
        mine.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            mine[0] = 1
        mine.flags.writeable = True
        mine[0] = 1


@both
def test_the_object_may_go_while_the_array_lives(ray: Any, size: int) -> None:
    ref = ray.put(np.full(size, 3))
    mine = ray.get(ref, writable=True)
    mine[0] = 1
    part = mine[size // 2 :]
    del ref, mine
    others = [ray.put(np.zeros(size)) for _ in range(20)]  # would lie where the object lay
    assert part.tolist() == [3] * (size - size // 2)
    part[:] = 4
    assert all(not ray.get(o).any() for o in others)
    del part
    assert ray.get(ray.put(np.ones(size)))[-1] == 1


def test_room_and_mappings_are_given_back(ray: Any) -> None:
    stats = pyray._core.store.object_stats
    array, mappings = np.zeros(LARGE), len(helpers.store_mappings())
    used = stats()["used"]
    for _ in range(100):
        mine = ray.get(ray.put(array), writable=True)
        mine[0] = 1
        assert len(helpers.store_mappings()) == mappings + 1
        del mine
    assert stats()["used"] <= used + (1 << 20) and len(helpers.store_mappings()) == mappings
    ref = ray.put(array)
    kept = [ray.get(ref, writable=True) for _ in range(50)]
    assert len(helpers.store_mappings()) == mappings + 50
    cycle: list[Any] = [kept.pop()]
    cycle.append(cycle)
    del kept, cycle
    gc.collect()
    assert len(helpers.store_mappings()) == mappings


@both
def test_arrays_stay_usable_after_shutdown(ray: Any, size: int) -> None:
    first = ray.get(ray.put(np.arange(size)), writable=True)
    first[0] = -1
    ray.shutdown()
    assert first[0] == -1 and first[1:].tolist() == list(range(1, size))
    first *= 2
    ray.init(num_cpus=1, object_store_memory=64 << 20)
    second = ray.get(ray.put(first), writable=True)
    second += 1
    assert (first[-1], second[-1]) == (2 * size - 2, 2 * size - 1)


def test_in_a_forked_child(ray: Any) -> None:
    mine = ray.get(ray.put(np.zeros(LARGE)), writable=True)
    mine[0] = 1
    pid = os.fork()
    if pid == 0:
        ok = mine[0] == 1 and mine[-1] == 0
        mine += 5
        os._exit(0 if ok and mine[-1] == 5 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert mine[0] == 1 and mine[-1] == 0


def test_errors_are_as_ever(ray: Any) -> None:
    @ray.remote
    def bad() -> None:
        error = ValueError("no")
        error.array = np.zeros(LARGE)  # type: ignore[attr-defined]
        raise error

    with pytest.raises(ValueError, match="no"):
        ray.get(bad.remote(), writable=True)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(_never(ray), timeout=0.05, writable=True)
    for wrong in (1, None, "yes", np.True_):
        with pytest.raises(TypeError, match="writable is True or False"):
            ray.get(ray.put(1), writable=wrong)
    with pytest.raises(TypeError, match="ObjectID"):
        ray.get(5, writable=True)


def _never(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    def sleep() -> None:
        import time

        time.sleep(30)

    return sleep.remote()


# ---- tasks -------------------------------------------------------------------------------------


@both
def test_a_task_writes_to_its_arguments(ray: Any, size: int) -> None:
    @ray.remote(writable=True)
    def work(a: Any, b: Any, *rest: Any, c: Any, d: Any) -> Any:
        for array in (a, b, rest[0]["x"], c, d[0]):
            assert memoryview(array).readonly is False
            array += 1
        return [float(x[-1]) for x in (a, b, rest[0]["x"], c, d[0])]

    arrays = [np.full(size, float(i)) for i in range(5)]
    first, third = ray.put(arrays[0]), ray.put(arrays[3])
    for _ in range(2):
        found = ray.get(work.remote(first, arrays[1], {"x": arrays[2]}, c=third, d=[arrays[4]]))
        assert found == [1, 2, 3, 4, 5]
    assert ray.get([first, third])[0][-1] == 0 and ray.get(third)[-1] == 3
    assert [a[-1] for a in arrays] == [0, 1, 2, 3, 4]


@both
def test_only_calls_that_say_so(ray: Any, size: int) -> None:
    @ray.remote
    def writable(*arrays: Any) -> list[bool]:
        return [a.flags.writeable for a in arrays]

    own = writable.options(writable=True)
    ref, array = ray.put(np.zeros(size)), np.zeros(size)
    assert ray.get(writable.remote(ref, array)) == [False, False]
    assert ray.get(own.remote(ref, array)) == [True, True]
    assert ray.get(own.options(writable=False).remote(ref, array)) == [False, False]
    assert ray.get(own.options(num_cpus=2).remote(ref)) == [True]

    @ray.remote
    def outer(function: Any, given: list[Any]) -> Any:
        return pyray.get(function.remote(given[0]))

    assert ray.get(outer.remote(own, [ref])) == [True]


@both
def test_a_task_that_runs_again_finds_its_arguments_as_they_were(
    ray: Any, size: int, tally: Any
) -> None:
    @ray.remote(writable=True, retry_exceptions=True, max_retries=2)
    def work(a: Any, b: Any) -> Any:
        tally.add(f"{a[-1]:g} {b[-1]:g}")
        a += 1
        b += 1
        if len(tally) < 3:
            raise RuntimeError("again")
        return float(a[-1] + b[-1])

    assert ray.get(work.remote(ray.put(np.zeros(size)), np.ones(size))) == 3
    assert tally.lines() == ["0 1"] * 3


@both
def test_what_a_task_returns_of_its_arguments(ray: Any, size: int) -> None:
    @ray.remote(writable=True)
    def add(a: Any) -> Any:
        a += 1
        return a

    ref = ray.put(np.zeros(size))
    for _ in range(3):
        ref = add.remote(ref)
    assert ray.get(ref)[-1] == 3

    @ray.remote(writable=True)
    def each(a: Any) -> Any:
        for _ in range(3):
            a += 1
            yield a

    assert [ray.get(r)[-1] for r in each.remote(ref)] == [4, 5, 6]
    assert ray.get(ref)[-1] == 3


@both
def test_actors(ray: Any, size: int) -> None:
    @ray.remote(writable=True)
    class Grid:
        def __init__(self, cells: Any) -> None:
            self.cells = cells
            self.cells[0] = 1

        def add(self, other: Any) -> Any:
            self.cells += other
            other[:] = 0
            return float(self.cells[0])

        @pyray.method(writable=False)
        def look(self, other: Any) -> bool:
            return bool(other.flags.writeable)

    @ray.remote
    class Plain:
        def __init__(self, cells: Any) -> None:
            self.own = bool(cells.flags.writeable)

        @pyray.method(writable=True)
        def write(self, other: Any) -> bool:
            other += 1
            return self.own

        def look(self, other: Any) -> bool:
            return bool(other.flags.writeable)

    start, more = np.zeros(size), ray.put(np.full(size, 2))
    grid = Grid.remote(start)
    assert ray.get([grid.add.remote(more), grid.add.remote(more)]) == [3, 5]
    assert not ray.get(grid.look.remote(more))
    assert ray.get(grid.look.options(writable=True).remote(more))
    assert start[0] == 0 and ray.get(more)[-1] == 2

    @ray.remote
    def through(handle: Any, ref: list[Any]) -> Any:
        return pyray.get([handle.add.remote(ref[0]), handle.look.remote(ref[0])])

    assert ray.get(through.remote(grid, [more])) == [7, False]
    plain = Plain.remote(more)
    assert ray.get([plain.write.remote(more), plain.look.remote(more)]) == [False, False]
    assert ray.get(plain.look.options(writable=True).remote(more))
    own = Plain.options(writable=True).remote(more)
    assert ray.get([own.write.remote(more), own.look.remote(more)]) == [True, True]


def test_actors_that_run_calls_side_by_side(ray: Any) -> None:
    @ray.remote(writable=True)
    class Loop:
        async def add(self, a: Any) -> float:
            a += 1
            return float(a[-1])

    @ray.remote(writable=True, max_concurrency=2)
    class Threads:
        def add(self, a: Any) -> float:
            a += 1
            return float(a[-1])

    ref = ray.put(np.zeros(LARGE))
    for cls in (Loop, Threads):
        actor = cls.remote()
        assert ray.get([actor.add.remote(ref) for _ in range(4)]) == [1] * 4
    assert ray.get(ref)[-1] == 0


def test_an_actor_that_is_made_again_finds_its_arguments_as_they_were(ray: Any) -> None:
    @ray.remote(writable=True, max_restarts=1, max_task_retries=1)
    class Counts:
        def __init__(self, a: Any) -> None:
            a += 1
            self.a = a

        def last(self, die: bool) -> float:
            if die and self.a[0] == 1:
                self.a[0] = 2
                os.kill(os.getpid(), 9)
            return float(self.a[-1])

    counts = Counts.options(max_task_retries=0).remote(np.zeros(LARGE))
    with pytest.raises(exceptions.ActorUnavailableError):
        ray.get(counts.last.remote(True))
    assert ray.get(counts.last.remote(False)) == 1


def test_options_are_checked() -> None:
    def f() -> None:
        pass

    class A:
        def m(self) -> None:
            pass

    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match="writable is True or False"):
            pyray.remote(writable=wrong)(f)
        with pytest.raises(TypeError, match="writable is True or False"):
            pyray.remote(f).options(writable=wrong)
        with pytest.raises(TypeError, match="writable is True or False"):
            pyray.remote(writable=wrong)(A)
        with pytest.raises(TypeError, match="writable is True or False"):
            pyray.remote(A).options(writable=wrong)
        if wrong is not None:
            with pytest.raises(TypeError, match="writable is True or False"):
                pyray.method(writable=wrong)


@both
def test_local_mode(size: int) -> None:
    pyray.init(local_mode=True, num_cpus=1)

    @pyray.remote(writable=True)
    def add(a: Any, *, b: Any) -> float:
        a += 1
        b += 1
        return float(a[-1] + b[-1])

    @pyray.remote(writable=True)
    class Keeps:
        def __init__(self, a: Any) -> None:
            a += 1
            self.a = a

        def add(self, a: Any) -> float:
            a += self.a
            return float(a[-1])

        @pyray.method(writable=False)
        def look(self, a: Any) -> bool:
            return bool(a.flags.writeable)

    ref, array = pyray.put(np.zeros(size)), np.zeros(size)
    assert pyray.get(add.remote(ref, b=array)) == 2
    keeps = Keeps.remote(array)
    assert pyray.get([keeps.add.remote(ref), keeps.add.remote(array)]) == [1, 1]
    assert not pyray.get(keeps.look.remote(ref))
    assert pyray.get(keeps.look.options(writable=True).remote(ref))
    assert pyray.get(ref)[-1] == 0 and array[-1] == 0


# ---- memory ------------------------------------------------------------------------------------


def touching_a_megabyte(ray: Any, megabytes: int) -> None:
    @ray.remote
    def touch(refs: list[Any]) -> Any:
        helpers.rollup()
        before = helpers.rollup()
        array = pyray.get(refs[0], writable=True)
        half = len(array) // 2
        got = helpers.rollup()
        array[half : half + MEGABYTE] = 2
        after = helpers.rollup()
        whole = int(array[:: 1 << 12].sum())  # reads every page
        read = helpers.rollup()
        return before, got, after, read, whole

    ref = ray.put(np.ones(megabytes * MEGABYTE, "u1"))
    used = pyray._core.store.object_stats()["used"]
    ray.get(touch.remote([ray.put(np.ones(LARGE, "u1"))]))  # all is imported by then
    before, got, after, read, whole = ray.get(touch.remote([ref]))
    assert whole == megabytes * 256 + 256

    def more(what: str, then: dict[str, int], now: dict[str, int]) -> float:
        return (now[what] - then[what]) / MEGABYTE

    # Of its own: nothing at first, then what it touched; and reading the rest changes nothing.
    assert more("Private_Dirty", before, got) < 0.25
    assert 1 <= more("Private_Dirty", before, after) < 1.5
    assert 1 <= more("Anonymous", before, read) < 1.5
    # All in all: the same, as long as it does not read the rest, which is the store's.
    assert more("Rss", before, after) < 2
    assert pyray._core.store.object_stats()["used"] <= used + LARGE * 2


def test_touching_1_mb_of_64_costs_1_mb(ray: Any) -> None:
    touching_a_megabyte(ray, 64)


@pytest.mark.slow
def test_touching_1_mb_of_a_gigabyte_costs_1_mb() -> None:
    pyray.init(num_cpus=1, object_store_memory=1300 << 20)
    touching_a_megabyte(pyray, 1024)


SHORT_OF = """
import ctypes, pathlib, resource
import numpy as np
import pyray as ray

def private():
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "memfd:pyray" in line and " rw-p " in line]

ray.init(num_cpus=1, object_store_memory=256 << 20)
ref = ray.put(np.arange(1 << 17))
big = ray.put(np.zeros(1 << 24))
mine = ray.get(ref, writable=True)
assert len(private()) == 1
del mine
assert not private()

# Address space.
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
try:
    ray.get(big, writable=True)
except MemoryError as error:
    said = str(error)
else:
    said = "nothing"
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert "134217728 bytes" in said and "Cannot allocate" in said and "writable" in said, said
assert not ray.get(big).any()

# Mappings: a page with other rights than its neighbours is one of its own.
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
pages = 140_000
base = libc.mmap(None, pages << 12, 0, 0x4022, -1, 0)
at = base + 4096
while at < base + (pages << 12) and libc.mprotect(at, 4096, 1) == 0:
    at += 8192
assert at < base + (pages << 12), "there is no limit"
full = libc.mmap(None, 4096, 3, 0x22, -1, 0)
while full != ctypes.c_void_p(-1).value and full is not None:
    full = libc.mmap(None, 4096, 1 + 2 * (full >> 12 & 1), 0x22, -1, 0)
mine = ray.get(ref, writable=True)
lines = private()
libc.munmap(base, pages << 12)
assert not lines, lines
mine += 1
assert mine[-1] == 1 << 17 and ray.get(ref)[-1] == (1 << 17) - 1
mine = ray.get(ref, writable=True)
assert len(private()) == 1
ray.shutdown()
print("done")
"""


@pytest.mark.no_asan("needs mappings too")
def test_where_nothing_can_be_mapped_it_is_copied(tmp_path: Any) -> None:
    done = helpers.run_script(tmp_path / "short_of.py", SHORT_OF)
    assert done.stdout == "done\n"
