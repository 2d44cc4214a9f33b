"""runtime_env: what tasks find in their processes, what is inherited, and what is refused."""

from __future__ import annotations

import doctest
import json
import os
import pickle
import shutil
import sys

import pytest

import pyray
from pyray import exceptions
from pyray.runtime_env import RuntimeEnv


def made(function):
    """A copy that travels by value, so that workers need not import this module."""
    import types

    return types.FunctionType(
        function.__code__, {"__builtins__": __builtins__}, function.__name__, function.__defaults__
    )


@made
def variable(name):
    import os

    return os.environ.get(name)


@made
def place():
    import os
    import sys

    return os.getcwd(), sys.path[0], os.getpid()


@made
def imported(name, what="VALUE"):
    import importlib

    return getattr(importlib.import_module(name), what)


get_variable = pyray.remote(variable)
get_place = pyray.remote(place)
get_imported = pyray.remote(imported)


def with_env(function, **env):
    return function.options(runtime_env=env)


@pytest.fixture
def package(tmp_path):
    """A directory with a package and a module in it."""
    (tmp_path / "rt_package").mkdir()
    (tmp_path / "rt_package" / "__init__.py").write_text("VALUE = 'a package'\n")
    (tmp_path / "rt_package" / "part.py").write_text("VALUE = 'a part'\n")
    (tmp_path / "rt_module.py").write_text("VALUE = 'a module'\n")
    return tmp_path


# ---- variables ---------------------------------------------------------------------------------


def test_variables_are_those_of_the_task_alone(ray):
    a = with_env(get_variable, env_vars={"RT_A": "1", "RT_B": "zwei – 2"})
    assert pyray.get([a.remote("RT_A"), a.remote("RT_B")]) == ["1", "zwei – 2"]
    assert pyray.get([get_variable.remote("RT_A") for _ in range(20)]) == [None] * 20
    other = with_env(get_variable, env_vars={"RT_A": "other"})
    assert pyray.get([other.remote("RT_A"), a.remote("RT_A")]) == ["other", "1"]
    assert "RT_A" not in os.environ


def test_an_option_of_the_decorator(ray):
    @pyray.remote(runtime_env={"env_vars": {"RT_A": "decorated"}}, num_cpus=0.5)
    def f():
        import os

        return os.environ.get("RT_A")

    assert pyray.get(f.remote()) == "decorated"
    assert pyray.get(f.options(num_cpus=2).remote()) == "decorated"
    assert pyray.get(f.options(runtime_env=None).remote()) is None
    env = RuntimeEnv(env_vars={"RT_A": "object"})
    assert pyray.get(f.options(runtime_env=env).remote()) == "object"


def test_references_to_variables(monkeypatch):
    monkeypatch.setenv("RT_BASE", "base")
    pyray.init(num_cpus=1)
    env = {
        "RT_BASE": "more:${RT_BASE}",
        "RT_NEXT": "[${RT_BASE}]",
        "RT_NONE": "<${RT_NOT_THERE}>",
        "RT_PLAIN": "a$b ${} $RT_BASE",
    }
    f = with_env(get_variable, env_vars=env)
    assert pyray.get([f.remote(name) for name in env]) == [
        "more:base",
        "[more:base]",
        "<>",
        "a$b ${} $RT_BASE",
    ]


def test_numerical_libraries_threads_are_the_users_choice(ray):
    f = with_env(get_variable, env_vars={"OMP_NUM_THREADS": "7"})
    assert pyray.get(f.remote("OMP_NUM_THREADS")) == "7"
    assert pyray.get(f.options(num_cpus=2).remote("OMP_NUM_THREADS")) == "7"
    assert pyray.get(get_variable.remote("OMP_NUM_THREADS")) == "1"


def test_variables_that_a_process_would_read_at_its_start(ray, package):
    f = with_env(get_imported, env_vars={"PYTHONPATH": f"{package}:${{PYTHONPATH}}"})
    assert pyray.get(f.remote("rt_module")) == "a module"

    def clock():
        import time

        return time.localtime(0).tm_hour

    zone = with_env(pyray.remote(clock), env_vars={"TZ": "XYZ-9"})
    assert pyray.get(zone.remote()) == 9


def test_gpus_are_given_out_as_ever(package):
    pyray.init(num_cpus=2, num_gpus=2)

    def gpus():
        import os

        return pyray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["RT_A"]

    env = {"RT_A": "1", "CUDA_VISIBLE_DEVICES": "5"}
    f = with_env(pyray.remote(num_gpus=1)(gpus), env_vars=env)
    found = pyray.get([f.remote() for _ in range(4)])
    assert {(*ids, shown) for ids, shown, _ in found} <= {(0, "0"), (1, "1")}
    none = with_env(pyray.remote(gpus), env_vars=env)
    assert pyray.get(none.remote()) == ([], "", "1")


# ---- directories and modules -------------------------------------------------------------------


def test_the_working_directory(ray, package, monkeypatch):
    mine, first, _ = pyray.get(get_place.remote())
    assert mine == os.getcwd()
    f = with_env(get_place, working_dir=str(package))
    assert pyray.get(f.remote())[:2] == (str(package), str(package))
    g = with_env(get_imported, working_dir=package)  # a Path
    assert pyray.get(g.remote("rt_module")) == "a module"
    monkeypatch.chdir(package)
    h = with_env(get_place, working_dir="rt_package")  # of the driver's own
    assert pyray.get(h.remote())[0] == str(package / "rt_package")
    assert pyray.get(get_place.remote())[:2] == (mine, first)


def test_modules(ray, package):
    path, file = package / "rt_package", package / "rt_module.py"
    f = with_env(get_imported, py_modules=[path])
    assert pyray.get([f.remote("rt_package"), f.remote("rt_package.part")]) == [
        "a package",
        "a part",
    ]
    g = with_env(get_imported, py_modules=[str(file)])
    assert pyray.get(g.remote("rt_module")) == "a module"
    with pytest.raises(ModuleNotFoundError):
        pyray.get(get_imported.remote("rt_module"))


def test_modules_that_are_imported_here(ray, package, monkeypatch):
    monkeypatch.syspath_prepend(str(package))
    import rt_module
    import rt_package

    try:
        f = with_env(get_imported, py_modules=[rt_package, rt_module])
        assert pyray.get(f.remote("rt_package")) == "a package"
        assert pyray.get(f.remote("rt_module")) == "a module"
        part = __import__("rt_package.part").part
        with pytest.raises(ValueError, match="give the package 'rt_package'"):
            with_env(get_imported, py_modules=[part])
    finally:
        for name in ("rt_module", "rt_package", "rt_package.part"):
            sys.modules.pop(name, None)


def test_what_a_task_starts_finds_the_same_modules(ray, package):
    def start():
        import subprocess
        import sys

        code = "import rt_module; print(rt_module.VALUE)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    f = with_env(pyray.remote(start), py_modules=[package / "rt_module.py"])
    assert pyray.get(f.remote()) == "a module\n"


# ---- what is inherited -------------------------------------------------------------------------


def test_children_have_the_environment_of_their_parent(ray1, package):
    @pyray.remote
    def child():
        import os

        return os.environ.get("RT_A"), os.environ.get("RT_B"), os.getcwd(), os.getpid()

    def parent(child, there, other):
        import os

        inherited = child.remote()
        merged = child.options(runtime_env={"env_vars": {"RT_B": "child's"}}).remote()
        moved = child.options(runtime_env={"working_dir": other}).remote()
        found = pyray.get([inherited, merged, moved])
        assert os.getpid() not in [f[3] for f in found]
        return [f[:3] for f in found]

    other = package / "rt_package"
    env = {"env_vars": {"RT_A": "parent's", "RT_B": "too"}, "working_dir": package}
    f = with_env(pyray.remote(parent), **env)
    assert pyray.get(f.remote(child, str(package), str(other))) == [
        ("parent's", "too", str(package)),
        ("parent's", "child's", str(package)),
        ("parent's", "too", str(other)),
    ]
    assert pyray.get(child.remote())[:2] == (None, None)


def test_references_are_not_resolved_twice_in_children(monkeypatch):
    monkeypatch.setenv("RT_BASE", "base")
    pyray.init(num_cpus=1, runtime_env={"env_vars": {"RT_BASE": "session:${RT_BASE}"}})

    def parent(get_variable):
        here = variable("RT_BASE")
        more = get_variable.options(runtime_env={"env_vars": {"RT_B": "x"}})
        return here, *pyray.get([get_variable.remote("RT_BASE"), more.remote("RT_BASE")])

    variable = made(get_variable._function)
    assert pyray.get(get_variable.remote("RT_BASE")) == "session:base"
    own = with_env(pyray.remote(parent), env_vars={"RT_A": "1"})
    assert pyray.get(own.remote(get_variable)) == ("session:base",) * 3


def test_the_sessions_environment_reaches_all_workers(package):
    env = {"env_vars": {"RT_A": "session's"}, "working_dir": package, "py_modules": None}
    pyray.init(num_cpus=2, runtime_env=env)
    assert pyray.get([get_variable.remote("RT_A") for _ in range(20)]) == ["session's"] * 20
    where, first, _ = pyray.get(get_place.remote())
    assert (where, first) == (str(package), str(package))
    assert pyray.get(get_imported.remote("rt_module")) == "a module"
    merged = with_env(get_variable, env_vars={"RT_B": "task's"})
    assert pyray.get([merged.remote("RT_A"), merged.remote("RT_B")]) == ["session's", "task's"]
    moved = with_env(get_place, working_dir=package / "rt_package")
    assert pyray.get(moved.remote())[:2] == (str(package / "rt_package"),) * 2
    assert os.getcwd() != str(package) and "RT_A" not in os.environ


def test_what_equals_the_sessions_environment_needs_no_process_of_its_own(package):
    pyray.init(num_cpus=1, runtime_env={"env_vars": {"RT_A": "1"}})
    plain = pyray.get(get_place.remote())[2]
    same = with_env(get_place, env_vars={"RT_A": "1"})
    assert pyray.get(same.remote())[2] == plain
    assert pyray.get(get_place.options(runtime_env={}).remote())[2] == plain
    assert pyray.get(with_env(get_place, env_vars={"RT_A": "2"}).remote())[2] != plain


def test_a_worker_that_comes_later_has_the_sessions_environment(package):
    pyray.init(num_cpus=1, runtime_env={"working_dir": package})

    @pyray.remote
    def nest(depth):
        import os

        return [os.getcwd(), *(pyray.get(nest.remote(depth - 1)) if depth else [])]

    assert pyray.get(nest.remote(4)) == [str(package)] * 5


def test_an_environment_travels_with_its_function(ray):
    """Options of a remote function that another task calls are its own, paths and all."""
    f = with_env(get_variable, env_vars={"RT_A": "travels"})

    @pyray.remote
    def call(f):
        return pyray.get(f.remote("RT_A"))

    assert pyray.get(call.remote(f)) == "travels"


# ---- actors ------------------------------------------------------------------------------------


def make_actor_class():
    class Actor:
        def __init__(self, name="RT_A"):
            import os

            self.at_start = os.environ.get(name)

        def found(self, name):
            import os

            return self.at_start, os.environ.get(name), os.getcwd()

        def child(self, get_variable, name):
            return pyray.get(get_variable.remote(name))

        def die(self):
            import os

            os.kill(os.getpid(), 9)

    return Actor


ActorClass = make_actor_class()


def test_an_actor_has_its_environment_for_life_and_its_tasks_have_it_too(ray, package):
    env = {"env_vars": {"RT_A": "actor's"}, "working_dir": package}
    cls = pyray.remote(ActorClass)
    for given in (env, RuntimeEnv(**env)):
        actor = cls.options(runtime_env=given).remote()
        assert pyray.get(actor.found.remote("RT_A")) == ("actor's", "actor's", str(package))
        assert pyray.get(actor.child.remote(get_variable, "RT_A")) == "actor's"
    plain = cls.remote()
    assert pyray.get(plain.found.remote("RT_A"))[:2] == (None, None)


def test_an_actor_that_is_made_again_has_the_same_environment(ray):
    cls = pyray.remote(max_restarts=1, runtime_env={"env_vars": {"RT_A": "1"}})(ActorClass)
    actor = cls.remote()
    assert pyray.get(actor.found.remote("RT_A"))[0] == "1"
    with pytest.raises(exceptions.PyrayError):
        pyray.get(actor.die.remote())
    assert pyray.get(actor.found.remote("RT_A"))[:2] == ("1", "1")


def test_an_actor_made_in_a_task_inherits_and_merges(ray):
    cls = pyray.remote(ActorClass)

    def make(cls):
        actor = cls.options(runtime_env={"env_vars": {"RT_B": "b"}}).remote("RT_B")
        return pyray.get(actor.found.remote("RT_A"))[:2]

    task = with_env(pyray.remote(make), env_vars={"RT_A": "a", "RT_B": "a"})
    assert pyray.get(task.remote(cls)) == ("b", "a")


def test_an_actor_whose_environment_cannot_be_set_up(ray, tmp_path):
    (tmp_path / "there").mkdir()
    cls = pyray.remote(runtime_env={"working_dir": tmp_path / "there"})(ActorClass)
    shutil.rmtree(tmp_path / "there")
    actor = cls.remote()
    with pytest.raises(exceptions.ActorDiedError, match="runtime_env of Actor could not be set up"):
        pyray.get(actor.found.remote("RT_A"))


def test_what_an_actor_cannot_have_is_refused_at_the_call():
    with pytest.raises(ValueError, match="'conda'"):
        pyray.remote(runtime_env={"conda": "x"})(ActorClass)
    with pytest.raises(TypeError, match="env_vars"):
        pyray.remote(ActorClass).options(runtime_env={"env_vars": ["A"]})


# ---- what goes wrong ---------------------------------------------------------------------------


def test_a_directory_that_has_gone_is_the_tasks_error(ray, tmp_path):
    (tmp_path / "there").mkdir()
    f = with_env(get_place, working_dir=tmp_path / "there", env_vars={"RT_A": "${RT_A}x"})
    shutil.rmtree(tmp_path / "there")
    for _ in range(2):
        with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"place.*there") as caught:
            pyray.get(f.remote())
        assert isinstance(caught.value, exceptions.PyrayError)
    (tmp_path / "there").mkdir()
    assert pyray.get(f.remote())[0] == str(tmp_path / "there")
    g = with_env(get_variable, working_dir=tmp_path / "there", env_vars={"RT_A": "${RT_A}x"})
    assert pyray.get(g.remote("RT_A")) == "x"  # the attempts that failed left nothing


def test_a_sessions_directory_that_has_gone(tmp_path):
    (tmp_path / "there").mkdir()
    gone = tmp_path / "gone"
    pyray.init(num_cpus=1, runtime_env={"working_dir": tmp_path / "there"})
    assert pyray.get(get_place.remote())[0] == str(tmp_path / "there")
    (tmp_path / "there").rename(gone)

    @pyray.remote
    def parent(get_place):
        return pyray.get(get_place.remote())  # in a worker that is started now

    with pytest.raises(exceptions.RuntimeEnvSetupError):
        pyray.get(parent.remote(get_place))


def test_a_process_that_never_comes_up_fails_its_task(ray, monkeypatch):
    """The node forks it with an environment that it cannot read: it ends at once, each time."""
    monkeypatch.setattr("pyray.session.runtime_env.to_text", lambda env: "not JSON")
    f = with_env(get_place, env_vars={"RT_A": "1"})
    with pytest.raises(exceptions.WorkerCrashedError, match="5 worker processes in a row"):
        pyray.get(f.remote(), timeout=20)
    monkeypatch.undo()
    assert pyray.get(get_place.remote())


@pytest.mark.parametrize(
    "key",
    ["pip", "uv", "conda", "container", "image_uri", "excludes", "config", "java_jars", "nsight"]
    + ["py_executable", "worker_process_setup_hook", "what_is_this", 3],
)
def test_other_keys_are_refused_by_name(key):
    for call in (
        lambda: pyray.remote(runtime_env={key: ["x"]}),
        lambda: get_place.options(runtime_env={key: "x", "env_vars": {}}),
        lambda: pyray.init(runtime_env={key: {"x": 1}}),
    ):
        with pytest.raises(ValueError, match=repr(key)) as caught:
            call()
        assert len(str(caught.value).partition(repr(key))[2]) > 20  # what to do instead
    if isinstance(key, str):
        with pytest.raises(ValueError, match=repr(key)):
            RuntimeEnv(**{key: ["x"]})
        assert RuntimeEnv(env_vars={"A": "1"}, pip=None) == {"env_vars": {"A": "1"}}
    assert not pyray.is_initialized()


@pytest.mark.parametrize(
    ("env", "error", "text"),
    [
        ("x", TypeError, "'x'"),
        ([("env_vars", {})], TypeError, "RuntimeEnv"),
        ({"env_vars": [("A", "1")]}, TypeError, "dict of str to str"),
        ({"env_vars": {"A": 1}}, TypeError, "'A'.*int.*'1'"),
        ({"env_vars": {1: "A"}}, TypeError, "1"),
        ({"env_vars": {"": "A"}}, ValueError, "''"),
        ({"env_vars": {"A=B": "A"}}, ValueError, "A=B"),
        ({"env_vars": {"A": "a\0b"}}, ValueError, "null"),
        ({"env_vars": {"PYRAY_SESSION": "x"}}, ValueError, "PYRAY_SESSION"),
        ({"working_dir": 3}, TypeError, "3"),
        ({"working_dir": b"/tmp"}, TypeError, "/tmp"),
        ({"working_dir": ""}, ValueError, "''"),
        ({"working_dir": "/no/such/place"}, ValueError, "/no/such/place"),
        ({"working_dir": "s3://bucket/x.zip"}, ValueError, "s3://bucket.*[Dd]ownload"),
        ({"working_dir": "https://x.org/y.zip"}, ValueError, "https"),
        ({"working_dir": __file__}, ValueError, "not a directory"),
        ({"py_modules": "/tmp"}, TypeError, "list"),
        ({"py_modules": {"x": 1}}, TypeError, "list"),
        ({"py_modules": [3]}, TypeError, r"py_modules\[0\]"),
        ({"py_modules": ["/tmp", "/no/such/place"]}, ValueError, r"py_modules\[1\].*/no/such"),
        ({"py_modules": ["gs://x/y.whl"]}, ValueError, "gs://"),
        ({"py_modules": ["/etc/hosts"]}, ValueError, "neither"),
        ({"py_modules": [sys]}, ValueError, "built in"),
    ],
    ids=str,
)
def test_bad_values_are_refused_at_the_call(env, error, text):
    for call in (
        lambda: pyray.remote(runtime_env=env),
        lambda: get_place.options(runtime_env=env),
        lambda: pyray.init(runtime_env=env),
    ):
        with pytest.raises(error, match=text):
            call()


def test_archives_are_refused(tmp_path):
    for name in ("x.zip", "y.whl"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match="unpack"):
        RuntimeEnv(working_dir=tmp_path / "x.zip")
    with pytest.raises(ValueError, match="unpack"):
        RuntimeEnv(py_modules=[tmp_path / "y.whl"])


def test_an_environment_is_a_dictionary_that_pickles(tmp_path):
    env = RuntimeEnv(working_dir=tmp_path, env_vars={"A": "1"})
    assert env == {"working_dir": str(tmp_path), "env_vars": {"A": "1"}}
    copy = pickle.loads(pickle.dumps(env))
    assert copy == env and type(copy) is RuntimeEnv
    assert json.loads(json.dumps(env)) == env.to_dict()


def test_examples_in_docstrings():
    tests = doctest.DocTestFinder().find(RuntimeEnv, "RuntimeEnv")
    assert sum(bool(t.examples) for t in tests) == 2
    runner = doctest.DocTestRunner()
    assert [runner.run(t).failed for t in tests] == [0] * len(tests)


# ---- local_mode --------------------------------------------------------------------------------


def test_in_local_mode_calls_have_theirs_for_as_long_as_they_last(package, monkeypatch):
    monkeypatch.setenv("RT_BASE", "base")
    pyray.init(local_mode=True, runtime_env={"env_vars": {"RT_BASE": "s:${RT_BASE}"}})

    @pyray.remote
    def child():
        return os.environ.get("RT_A"), os.environ["RT_BASE"], os.getcwd()

    @pyray.remote(runtime_env={"env_vars": {"RT_A": "1"}, "working_dir": package})
    def parent():
        import rt_module

        other = child.options(runtime_env={"env_vars": {"RT_A": "2"}})
        found = pyray.get([child.remote(), other.remote(), child.remote()])
        return rt_module.VALUE, os.getcwd(), found

    before = dict(os.environ), list(sys.path), os.getcwd()
    here = str(package)
    inherited = ("1", "s:base", here)
    assert pyray.get(parent.remote()) == (
        "a module",
        here,
        [inherited, ("2", "s:base", here), inherited],
    )
    assert (dict(os.environ), sys.path, os.getcwd()) == before
    assert pyray.get(child.remote()) == (None, "s:base", before[2])
    shutil.rmtree(package / "rt_package")
    sys.modules.pop("rt_module", None)


def test_in_local_mode_actors_have_theirs(package):
    pyray.init(local_mode=True, runtime_env={"env_vars": {"RT_B": "session's"}})
    cls = pyray.remote(ActorClass)
    env = {"env_vars": {"RT_A": "1"}, "working_dir": package}
    actor = cls.options(runtime_env=env).remote()
    assert pyray.get(actor.found.remote("RT_B")) == ("1", "session's", str(package))
    assert pyray.get(actor.child.remote(get_variable, "RT_A")) == "1"
    assert pyray.get(cls.remote().found.remote("RT_A"))[1] is None
    assert "RT_A" not in os.environ and os.getcwd() != str(package)
