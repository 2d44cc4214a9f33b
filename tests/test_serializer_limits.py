"""The serializer's errors: depth, paths, damaged bytes."""

import collections
import gc
import random
import sys
import threading
import weakref

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pyray._core import serializer as s

MESSAGE = "This object exceeds the maximum recursion depth. It may contain itself recursively."
Pair = collections.namedtuple("Pair", "left right")


class Node:
    pass


class Slotted:
    __slots__ = ("next", "other")


class Plain:
    def __init__(self, **fields):
        self.__dict__.update(fields)


def node(inner):
    made = Node()
    made.next = inner
    return made


def slotted(inner):
    made = Slotted()
    made.next = inner
    return made


WRAPS = {
    "list": lambda x: [x],
    "tuple": lambda x: (x,),
    "dict": lambda x: {"k": x},
    "frozenset": lambda x: frozenset([x]),
    "object": node,
    "key": lambda x: {(x,): 1} if isinstance(x, (int, tuple)) else (x,),
}


def nest(wrap, levels, value=0):
    for _ in range(levels):
        value = wrap(value)
    return value


def unnest(value):
    """Take a nest apart without recursion; give its depth."""
    depth = 0
    while value != 0:
        depth += 1
        if isinstance(value, Node | Slotted):
            value = value.next
        elif isinstance(value, dict):
            (value,) = value.values()
        else:
            (value,) = value
    return depth


@pytest.mark.parametrize("name", ["list", "tuple", "dict", "object", "frozenset"])
def test_a_thousand_levels(name):
    wrap = WRAPS[name]
    assert unnest(s.loads(s.dumps(nest(wrap, 1000)))) == 1000


@pytest.mark.parametrize("levels", [1001, 1500, 100_000])
@pytest.mark.parametrize("name", ["list", "tuple", "dict", "object", "frozenset"])
def test_deeper_raises(name, levels):
    if name == "frozenset" and levels > 1500:
        levels = 5000
    value = nest(WRAPS[name], levels)
    with pytest.raises(s.RecursionDepthError) as caught:
        s.dumps(value)
    assert str(caught.value) == MESSAGE
    assert isinstance(caught.value, RecursionError | ValueError)
    while value != 0:  # taken apart by hand: freeing 100,000 levels may overflow the stack
        value = unnest_one(value)


def unnest_one(value):
    if isinstance(value, Node):
        return value.next
    if isinstance(value, dict):
        return value["k"]
    (inner,) = value
    return inner


def test_values_that_contain_themselves():
    cyclic = []
    cyclic.append(cyclic)
    mapping = {}
    mapping["k"] = [mapping]
    loop = Node()
    loop.next = {"a": (loop,)}
    for value in (cyclic, mapping, loop, ([cyclic],)):
        with pytest.raises(s.RecursionDepthError, match=MESSAGE):
            s.dumps(value)


def test_mixed_levels():
    kinds = [WRAPS["list"], WRAPS["dict"], WRAPS["object"], WRAPS["tuple"]]
    value = 0
    for i in range(1000):
        value = kinds[i % 4](value)
    assert unnest(s.loads(s.dumps(value))) == 1000
    with pytest.raises(s.RecursionDepthError):
        s.dumps([value])


@pytest.mark.parametrize("wrap", [slotted, lambda x: Pair(x, None)], ids=["slots", "namedtuple"])
def test_inside_pickles(wrap):
    value = nest(wrap, 1000)
    back = s.loads(s.dumps([value]))[0]
    for _ in range(1000):
        back = back.next if isinstance(back, Slotted) else back.left
    assert back == 0
    value = nest(wrap, 100_000)
    with pytest.raises(s.RecursionDepthError) as caught:
        s.dumps([value])
    assert str(caught.value) == MESSAGE
    while value != 0:
        value = value.next if isinstance(value, Slotted) else value.left


@pytest.mark.parametrize("wrap", [WRAPS["list"], WRAPS["object"], slotted])
@pytest.mark.parametrize("spare", [12, 16, 30])
def test_near_pythons_own_limit(wrap, spare):
    value = nest(wrap, 1000)
    data = s.dumps(value)
    deep = [value]
    got = []

    def dive(left):
        if left:
            return dive(left - 1)
        got.append(s.dumps(value))
        got.append(s.loads(data))
        try:
            s.dumps(deep)
        except s.RecursionDepthError as error:
            got.append(error)
        return None

    room = sys.getrecursionlimit()
    frame = sys._getframe()
    while frame:
        room -= 1
        frame = frame.f_back
    dive(room - spare)
    assert bytes(got[0]) == bytes(data)
    assert unnest(got[1]) == 1000
    if wrap is not slotted:
        assert str(got[2]) == MESSAGE


def test_small_thread_stack():
    value = nest(WRAPS["object"], 1000)
    results = []

    def work():
        results.append(unnest(s.loads(s.dumps(value))))
        try:
            s.dumps([value])
        except s.RecursionDepthError:
            results.append("too deep")

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert results == [1000, "too deep"]


# -- paths ---------------------------------------------------------------------------------------

LOCK = threading.Lock()


def closure():
    lock = LOCK
    return lambda: lock


def with_slots():
    made = Slotted()
    made.next = [LOCK]
    return made


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "x"),
        ({"a": [0, 1, 2, Plain(lock=LOCK)]}, "x['a'][3].lock"),
        ([(1, {2: LOCK})], "x[0][1][2]"),
        ({1: {LOCK}}, "x[1]{...}"),
        ({(1, LOCK): 2}, "x.<key>[1]"),
        (Plain(a=Plain(b=[LOCK])), "x.a.b[0]"),
        (with_slots(), "x.next[0]"),
        (Pair(1, {"k": LOCK}), "x.right['k']"),
        (collections.OrderedDict(k=[LOCK]), "x['k'][0]"),
        ([ValueError(1, LOCK)], "x[0].args[1]"),
        ([closure()], "x[0].<closure lock>"),
        (np.array([1, LOCK], dtype=object), "x.flat[1]"),
        (s.Pickled([1, LOCK]), "x[1]"),
    ],
    ids=str,
)
def test_path_to_the_culprit(value, path):
    with pytest.raises(s.SerializationError) as caught:
        s.dumps(value)
    assert str(caught.value) == f"{path}: cannot pickle _thread.lock object"
    assert caught.value.path == path
    with pytest.raises(TypeError, match="^argument"):
        s.dumps(value, "argument")


class Grumpy:
    def __reduce__(self):
        raise ValueError("not me")


def test_other_errors_are_named():
    with pytest.raises(s.SerializationError) as caught:
        s.dumps([Grumpy()])
    assert str(caught.value).startswith("x[0]: cannot pickle ")
    assert str(caught.value).endswith("Grumpy object: ValueError: not me")
    assert isinstance(caught.value.__cause__, ValueError)


def test_changes_during_the_walk():
    victims = [[], {}]

    class Vandal:
        def __reduce__(self):
            victims[0].append(1)
            victims[1][len(victims[1])] = 1
            return str, ()

    victims[0] += [Vandal(), 1, 2]
    victims[1]["a"] = Vandal()
    for victim in victims:
        with pytest.raises(s.SerializationError, match="changed size"):
            s.dumps(victim)


def test_errors_travel():
    with pytest.raises(s.SerializationError) as caught:
        s.dumps([LOCK])
    back = s.loads(s.dumps(caught.value))
    assert str(back) == str(caught.value) and back.path == "x[0]"


# -- any bytes at all ----------------------------------------------------------------------------

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.complex_numbers(allow_nan=False)
)  # fmt: skip
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner) | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
)  # fmt: skip


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b and (not isinstance(a, float) or str(a) == str(b))


@hypothesis.given(VALUES)
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_value_comes_back(value):
    assert same(s.loads(s.dumps(value)), value)
    small = s.dumps_inline(value, 10_000)
    if small is not None:
        assert same(s.loads_inline(small), value)


@hypothesis.given(st.binary(max_size=100))
@hypothesis.settings(max_examples=500, deadline=None)
def test_any_inline_bytes(data):
    try:
        s.loads_inline(data)
    except s.CorruptObjectError:
        pass


def mutations(data, count, rng, hot):
    for _ in range(count):
        made = bytearray(data)
        kind = rng.randrange(5)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.choice(hot) if rng.random() < 0.7 else rng.randrange(len(made))
            if kind == 0:
                made[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif kind == 2:
                made[at] = rng.randrange(256)
            elif kind == 3:
                word = rng.choice((0, 1, -1, 2**31, 2**62, -(2**63), 2**63 - 1, 64, 1000))
                at -= at % 8
                made[at : at + 8] = word.to_bytes(8, "little", signed=True)[: len(made) - at]
            else:
                cut = rng.randrange(len(made))
                made = made[:cut] + (b"" if rng.random() < 0.5 else bytes(rng.randbytes(16)))
                break
        yield bytes(made)


SEEDS = [
    [1, 2.5, "text", b"bytes", None, True, (1, {"k": [2]})],
    {"a": np.arange(10), "b": np.ones((3, 4), order="F"), "c": [np.zeros(3, bool)]},
    [{1, 2}, frozenset([3]), 2**100, 1j, bytearray(b"abc"), "\ud800", np.float32(1)],
    [np.ones(3, complex), np.zeros((2, 2), "M8[ns]"), np.zeros(2, [("a", "i4")])],
    [Plain(a=1, b=np.ones(5)), Plain(a=2), Plain, Slotted, slotted(np.arange(2000))],
]


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_damaged_objects_raise(seed):
    rng = random.Random(seed)
    data = bytes(s.dumps(SEEDS[seed]))
    # Mostly the bytes that mean something: all that is not zero, and the lengths around.
    hot = [i for i in range(len(data)) if data[i]] or [0]
    read = 0
    for made in mutations(data, 4000, rng, hot):
        try:
            repr(s.loads(made))
            read += 1
        except s.CorruptObjectError:
            pass
    assert read < 4000


@pytest.mark.parametrize("seed", range(4))
def test_damaged_inline_values_raise(seed):
    rng = random.Random(seed)
    value = [1, -5, 2**40, 1.5, "text", "ä" * 50, b"b" * 300, {"k": (1, [None, True])}, [0] * 300]
    data = s.dumps_inline(value, 10_000)
    for made in mutations(data, 2500, rng, range(len(data))):
        try:
            repr(s.loads_inline(made or b"\0"))
        except s.CorruptObjectError:
            pass


def test_a_container_cannot_ask_for_memory_that_its_elements_do_not_fill():
    data = bytearray(s.dumps([7_654_321]))
    good = (1).to_bytes(8, "little")
    found = 0
    for at in range(0, len(data), 8):
        if data[at : at + 8] == good:
            made = bytearray(data)
            made[at : at + 8] = (2**40).to_bytes(8, "little")
            found += 1
            try:
                s.loads(made)
            except s.CorruptObjectError:
                pass
    assert found


def test_a_pickled_value_goes_without_the_garbage_collector(ray):
    class Whole:
        """Travels by pickle, its array out of band."""

        def __init__(self):
            self.array = np.zeros(100_000)

        def __reduce__(self):
            return Whole.again, (self.array,)

        @staticmethod
        def again(array):
            return array

    value = Whole()
    seen = weakref.ref(value.array)
    gc.disable()
    try:
        ref = ray.put(value)
        del value
        assert seen() is None
    finally:
        gc.enable()
    assert ray.get(ref).sum() == 0
