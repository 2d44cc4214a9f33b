"""The serializer: round trips, sharing, definitions, custom serializers, Arrow's own readers."""

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import pathlib
import sys
import typing
import uuid

import numpy as np
import pytest

from pyray import serialization
from pyray._core import serializer as s


def trip(value):
    return s.loads(s.dumps(value))


T = typing.TypeVar("T")


class Plain:
    def __init__(self, **fields):
        self.__dict__.update(fields)

    def __eq__(self, other):
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = None


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __eq__(self, other):
        return type(other) is type(self) and (self.a, self.b) == (other.a, other.b)

    __hash__ = None


class Stateful(Plain):
    def __getstate__(self):
        return {"state": self.n}

    def __setstate__(self, state):
        self.n = state["state"] + 1


class Reduced(Plain):
    def __reduce__(self):
        return Reduced.make, (self.n,)

    @staticmethod
    def make(n):
        return Reduced(n=n)


class NewArgs(Plain):
    def __new__(cls, n=None):
        made = super().__new__(cls)
        made.born = True
        return made

    def __init__(self, n):
        self.n = n

    def __getnewargs__(self):
        return (self.n,)


class Meta(type):
    pass


class WithMeta(Plain, metaclass=Meta):
    pass


class Property(Plain):
    @property
    def double(self):
        return 2 * self.n


class Guarded(Plain):
    def __setattr__(self, name, value):
        raise AttributeError(name)

    def __getattr__(self, name):
        raise AttributeError(name)


class DictChild(dict):
    pass


class IntChild(int):
    pass


class Colour(enum.Enum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Data:
    a: int
    b: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int


class Failure(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b

    def __reduce__(self):
        return Failure, (self.args[0], self.b)


class Holder(typing.Generic[T]):
    def __init__(self, a: T):
        self.a = a


def module_function(x):
    return x + 1


BUILTINS = [
    None, True, False, 0, 1, -1, 127, 128, -128, -129, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1,
    2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, -(2**64), 10**400, -(10**400),
    0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1 + 2j, complex(-0.0, math.inf),
    "", "a", "ä", "€" * 40, "😀", "nul\0", "\ud800", "x\udfff", "a" * 300, "a" * 100_000,
    "ß" * 100_000, "\ud800" * 50_000,
    b"", b"a", b"\0\xff" * 200, b"x" * 100_000, bytearray(), bytearray(b"abc"),
    [], [[]], [None], [1, 2.0, "3"], (), ((),), (1, (2, [3])), {}, {"a": {}}, {1: 2, "x": None},
    {(1, 2): [3], None: 4, 1.5: 5, b"k": 6, frozenset([1]): 7}, set(), {1, "a"}, frozenset(),
    frozenset([(1, 2)]), {frozenset([1]), frozenset()}, list(range(1000)),
    [{"k": i} for i in range(99)],
]  # fmt: skip

OBJECTS = [
    Plain(), Plain(a=1, b=[Plain(c="x")]), Slots(1, [2]), Reduced(n=3), WithMeta(n=1),
    Property(n=2), Guarded(n=1), Colour.RED, Point(1, [2]), Data(1, [2]), Frozen(1), IntChild(4),
    DictChild(a=1), collections.OrderedDict(b=1, a=2), collections.deque([1, 2], maxlen=3),
    collections.Counter("aab"), collections.defaultdict(list, a=[1]), range(3), slice(1, 2),
    datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC), datetime.date(2020, 1, 1),
    datetime.timedelta(1), decimal.Decimal("1.10"), fractions.Fraction(1, 3),
    uuid.UUID(int=5), pathlib.PurePosixPath("/a/b"), Ellipsis, NotImplemented,
    int, Plain, Slots, Meta, WithMeta, type(None), list[int], module_function, len, math.sin,
    Reduced.make, np.add, np.float64, np.ndarray,
]  # fmt: skip


@pytest.mark.parametrize("value", BUILTINS + OBJECTS, ids=lambda v: f"{type(v).__name__}-{v!r:.20}")
def test_round_trip(value):
    back = trip(value)
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, (Plain, Slots))
    back = trip([value, {"k": value}, (value,)])
    assert back == [value, {"k": value}, (value,)]
    assert type(back[1]["k"]) is type(value)


def test_nan_and_order():
    assert math.isnan(trip(math.nan))
    assert list(trip({"b": 1, "a": 2})) == ["b", "a"]
    assert math.copysign(1, trip(-0.0)) == -1


def test_bytearray_is_an_own_copy():
    buffer = s.dumps(bytearray(b"abc"))
    one, two = s.loads(buffer), s.loads(buffer)
    one[0] = 0
    assert two == b"abc"


def test_state_methods_are_used():
    assert trip(Stateful(n=1)).n == 2
    assert trip(NewArgs(3)).__dict__ == {"n": 3, "born": True}
    error = trip(Failure("x", 2))
    assert (error.args, error.b) == (("x",), 2)


def test_class_that_changes_its_mind():
    class Turncoat:
        pass

    value = Turncoat()
    value.a = 1
    assert trip(value).a == 1
    Turncoat.__reduce__ = lambda self: (str, ("reduced",))
    assert trip(value) == "reduced"
    del Turncoat.__reduce__
    assert trip(value).a == 1


def test_odd_instances():
    value = Plain()
    value.__dict__[1] = "not a name"
    assert trip(value).__dict__ == {1: "not a name"}
    assert trip(functools.partial(module_function, 1))() == 2
    assert trip([1].append) is not None
    assert isinstance(trip(ValueError("a", 1)), ValueError)


# -- pickled things ------------------------------------------------------------------------------


def shares(buffer, array):
    return np.shares_memory(np.frombuffer(buffer, "u1"), array)


def test_large_buffers_of_pickles_are_views():
    buffer = s.dumps(Slots(np.arange(10_000), "x"))
    back = s.loads(buffer)
    assert shares(buffer, back.a) and not back.a.flags.writeable
    del buffer
    assert back.a[-1] == 9999


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({
        "f": np.arange(5000.0), "t": pd.date_range("2020", periods=5000), "s": ["a", None] * 2500,
        "c": pd.Categorical(["x", "y"] * 2500),
    })  # fmt: skip
    buffer = s.dumps({"df": frame})
    back = s.loads(buffer)["df"]
    pd.testing.assert_frame_equal(back, frame)
    assert shares(buffer, back["f"].to_numpy())
    pd.testing.assert_series_equal(trip(frame["s"]), frame["s"])
    assert (trip(frame.index) == frame.index).all()
    assert back["f"].sum() == frame["f"].sum() and (back["f"] + 1).iloc[0] == 1


def test_pyarrow_objects():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": list(range(5000)), "b": [str(i) for i in range(5000)]})
    for value in (table, table.slice(10, 20), table["a"], table["b"].chunk(0).slice(3, 5),
                  table.schema, table.to_batches()[0]):  # fmt: skip
        back = trip(value)
        assert back.equals(value) and type(back) is type(value)
    buffer = s.dumps(table)
    back = s.loads(buffer)
    assert shares(buffer, back["a"].chunk(0).to_numpy())


def test_slice_of_a_table_is_small():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": np.arange(1_000_000)})
    assert s.encoded(table.slice(5, 10)).nbytes < 100_000
    assert s.encoded([table.slice(5, 10).to_batches()[0]]).nbytes < 100_000


def test_scipy_sparse():
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.random(200, 200, 0.2, format="csr")
    back = trip(matrix)
    assert type(back) is type(matrix) and (back != matrix).nnz == 0


def test_polars():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    back = trip([frame])[0]
    assert type(back) is type(frame) and back.equals(frame)


# -- classes and functions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "view", [memoryview(b"abc"), memoryview(bytearray(12)).cast("i", (3, 1))], ids=["B", "i"]
)
def test_memoryviews(view):
    back = trip([view])[0]
    assert type(back) is memoryview and back == view and back.format == view.format


def test_files_are_refused(tmp_path):
    with (
        open(tmp_path / "f", "w") as file,
        pytest.raises(s.SerializationError, match=r"^x\['k'\]: cannot pickle _io.TextIOWrapper"),
    ):
        s.dumps({"k": file})


def test_static_class_of_no_name_is_refused():
    with pytest.raises(s.SerializationError, match=r"^x\[0\]: "):
        s.dumps([sys.version_info])


def test_generic_class_keeps_views():
    buffer = s.dumps(Holder(np.arange(1000)))
    assert shares(buffer, s.loads(buffer).a)


def test_functions_by_value():
    k = 3

    def nested(x):
        return x + k

    for function in (nested, lambda x: x + k, functools.partial(nested)):
        assert trip(function)(1) == 4
        assert trip({"f": [function]})["f"][0](1) == 4
        assert trip(Plain(f=function)).f(1) == 4


def test_local_class_by_value():
    class Local:
        def __init__(self, n):
            self.n = n

        def double(self):
            return 2 * self.n

    back = trip([Local(1), Local(2), Local])
    assert [x.double() for x in back[:2]] == [2, 4]
    assert type(back[0]) is type(back[1]) is back[2]


def test_main_class_by_value(monkeypatch):
    source = "class A:\n    pass\nclass B(A):\n    __slots__ = ('x',)\ndef f(a): return a, A\n"
    main = sys.modules["__main__"]
    names = {"__name__": "__main__"}
    exec(source, names)
    for name in "ABf":
        monkeypatch.setattr(main, name, names[name], raising=False)
    slotted = names["B"]()
    slotted.x = 1
    blob = bytes(s.dumps([names["A"](), slotted, names["f"], {names["A"]: names["B"]}]))
    assert b"c__main__" not in blob
    for name in "ABf":
        monkeypatch.delattr(main, name)
    a, b, f, classes = s.loads(blob)
    assert b.x == 1 and type(a) in classes and classes[type(a)] is type(b)
    assert f(1)[0] == 1


class Ref:
    """Stands for ObjectID."""

    __slots__ = ("key",)

    def __init__(self, key):
        self.key = key

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)


@pytest.fixture
def hooked():
    table = []

    def export(obj):
        table.append(obj)
        return len(table) - 1

    s.set_hooks(Ref, lambda r: r.key, Ref, export, table.__getitem__)
    yield table
    s.set_hooks()


def test_references_are_found_everywhere(hooked):
    refs = [Ref(bytes([i]) * 48) for i in range(8)]
    holed = np.array([refs[6], None], dtype=object)
    value = [refs[0], {refs[1]: refs[2]}, Plain(r=refs[3]), Slots(refs[4], None), {refs[5]}, holed,
             Slots({"deep": [refs[7]]}, refs[0])]  # fmt: skip
    encoded = s.encoded(value)
    assert {r.key for r in encoded.contained} == {r.key for r in refs}
    assert all(type(r) is Ref for r in encoded.contained)
    back = trip(value)
    assert back[:2] == value[:2] and back[2].r == refs[3] and back[3].a == refs[4]
    assert back[5][0] == refs[6]
    assert s.dumps_inline(refs[0]) is None and s.dumps_inline([refs[0]]) is None


def test_definitions_are_shipped_by_number(hooked):
    class Local(Plain):
        pass

    class LocalSlots(Slots):
        __slots__ = ()

    def function(x):
        return Local, x

    value = [Local(a=1), Local(a=2), LocalSlots(1, 2), function, Local, Plain(f=function), Plain]
    back = trip(value)
    assert type(back[0]) is type(back[1]) is Local is back[4]
    assert type(back[2]) is LocalSlots and back[3] is function and back[5].f is function
    assert set(hooked) == {Local, LocalSlots, function}
    assert s.encoded(value).nbytes < 3000


def test_definition_hook_may_decline():
    s.set_hooks(Ref, lambda r: r.key, Ref, lambda obj: None, None)
    try:
        assert trip(lambda x: x + 1)(1) == 2
        assert trip([lambda x: x + 1, Slots(lambda: 5, 1)])[1].a() == 5
    finally:
        s.set_hooks()


def test_missing_definition_is_a_typed_error():
    blob = bytes(s.dumps([Plain])).replace(__name__.encode(), b"x" * len(__name__))
    with pytest.raises(s.DefinitionNotFoundError, match="which this object needs"):
        s.loads(blob)


# -- custom serializers --------------------------------------------------------------------------


class Odd:
    def __init__(self, n):
        self.n = n
        self.lock = contextlib.ExitStack()


@pytest.fixture
def custom():
    yield
    for cls in (Odd, Slots, Plain, Stateful):
        serialization.deregister_serializer(cls)


def test_custom_serializer(custom):
    offset = 1
    serialization.register_serializer(
        Odd,
        serializer=lambda o: {"n": np.full(9, o.n)},
        deserializer=lambda d: Odd(d["n"][0] + offset),
    )
    blobs = [bytes(s.dumps(v)) for v in (Odd(1), [Odd(2), Odd(3)], Slots(Odd(4), 0))]
    serialization.deregister_serializer(Odd)
    assert s.loads(blobs[0]).n == 2
    assert [o.n for o in s.loads(blobs[1])] == [3, 4]
    assert s.loads(blobs[2]).a.n == 5


def test_custom_serializer_that_never_ends(custom):
    serialization.register_serializer(Odd, serializer=lambda o: [o], deserializer=list)
    with pytest.raises(s.RecursionDepthError):
        s.dumps(Odd(1))


def test_old_manners(custom):
    serialization.register_custom_serializer(Plain, use_pickle=True, local=True, job_id=1)
    same = [1]
    back = trip(Plain(a=same, b=same))
    assert back.a is back.b
    serialization.register_custom_serializer(Stateful, use_dict=True)
    assert trip(Stateful(n=1)).n == 1
    assert trip(Slots(Stateful(n=1), 0)).a.n == 1
    serialization.register_custom_serializer(Slots, lambda x: (x.a, x.b), lambda p: Slots(*p))
    assert trip(Slots(1, 2)) == Slots(1, 2)
    serialization.deregister_serializer(Plain)
    back = trip(Plain(a=same, b=same))
    assert back.a is not back.b


@pytest.mark.parametrize(
    "arguments", [{}, {"use_pickle": True, "use_dict": True}, {"serializer": str, "use_dict": True}]
)
def test_manners_exclude_each_other(arguments):
    with pytest.raises(ValueError):
        serialization.register_custom_serializer(Plain, **arguments)


def test_registration_checks_types():
    with pytest.raises(TypeError):
        serialization.register_custom_serializer("Plain", use_dict=True)
    with pytest.raises(TypeError):
        serialization.register_custom_serializer(Plain, serializer=str)


def test_tree_not_graph_unless_pickled_whole():
    inner = [0]
    back = trip([inner, inner])
    assert back[0] is not back[1]
    back = trip(serialization.Pickled([inner, inner]))
    assert type(back) is list and back[0] is back[1]
    cyclic = []
    cyclic.append(cyclic)
    back = trip({"k": serialization.Pickled(cyclic)})["k"]
    assert back[0] is back
    back = trip(Slots(serialization.Pickled(inner), 0))
    assert back.a == [0]
