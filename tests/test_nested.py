"""Tasks that call tasks: the document's examples, and CPUs given back while waiting."""

from __future__ import annotations

import os
import re

import helpers
import pytest

import pyray

DOCUMENT = """
import pyray as ray

@ray.remote
def f():
    return 1

@ray.remote
def g():
    # Call f 4 times and return the resulting object IDs.
    return [f.remote() for _ in range(4)]

@ray.remote
def h():
    # Call f 4 times, block until those 4 tasks finish,
    # retrieve the results, and return the values.
    return ray.get([f.remote() for _ in range(4)])

print(ray.get(g.remote()))
print(ray.get(h.remote()))
print(ray.get(ray.get(g.remote())))
"""


def _split(source):
    """The document's definitions in the order h, g, f: the order is not to matter."""
    parts = source.split("@ray.remote\n")
    last, rest = parts[3].split("\nprint", 1)
    return "@ray.remote\n".join([parts[0], last + "\n", parts[2], parts[1]]) + "\nprint" + rest


@pytest.mark.parametrize("order", ["as in the document", "f last"])
def test_the_document_prints_what_it_shows(tmp_path, order):
    source = DOCUMENT if order == "as in the document" else _split(DOCUMENT)
    assert source.index("def h") < source.index("def f") or order != "f last"
    done = helpers.run_script(tmp_path / "script.py", source)
    ids, values, got = done.stdout.splitlines()
    one = r"ObjectID\([0-9a-f]{40}\)"
    assert re.fullmatch(rf"\[{one}, {one}, {one}, {one}\]", ids)
    assert len(set(re.findall(one, ids))) == 4
    assert values == got == "[1, 1, 1, 1]"
    assert done.stderr == ""


def test_ids_in_containers_travel_both_ways(ray):
    @ray.remote
    def leaf(x):
        return x

    @ray.remote
    def make(n):
        return {"refs": [leaf.remote(i) for i in range(n)], "put": (ray.put("p"), [ray.put(n)])}

    @ray.remote
    def take(box):
        return sum(ray.get(box["refs"])), ray.get(box["put"][0]), ray.get(box["put"][1])

    for n in (1, 10, 300):
        box = ray.get(make.remote(n))
        expected = (n * (n - 1) // 2, "p", [n])
        assert ray.get(take.remote(box)) == expected
        assert ray.get(take.remote(make.remote(n))) == expected


def test_ids_in_ids_many_levels_deep(ray):
    @ray.remote
    def wrap(n):
        return [wrap.remote(n - 1)] if n else "core"

    ref = wrap.remote(30)
    for _ in range(30):
        (ref,) = ray.get(ref)
    assert ray.get(ref) == "core"

    ref = ray.put("core")
    for _ in range(500):
        ref = ray.put([ref])
    for _ in range(500):
        (ref,) = ray.get(ref)
    assert ray.get(ref) == "core"


def test_an_id_given_to_a_task_while_its_task_has_not_run(ray, gate):
    @ray.remote
    def slow():
        gate.wait()
        return 5

    @ray.remote
    def awaits(box, opened):
        if opened:
            gate.open()
        return ray.get(box[0])

    ref = slow.remote()
    assert ray.get(awaits.remote([ref], True)) == 5


# ---- CPUs come back, GPUs do not ---------------------------------------------------------------


def _free(name):
    return pyray.available_resources().get(name, 0)


@pytest.mark.parametrize("how", ["get", "get a list", "wait"])
def test_a_waiting_task_gives_its_cpu_back_and_takes_it_again(ray1, gate, tmp_path, how):
    again, end = helpers.Gate(tmp_path / "again"), helpers.Gate(tmp_path / "end")

    @ray1.remote(num_cpus=0)
    def slow():
        gate.wait()
        return 1

    @ray1.remote
    def waits():
        ref = slow.remote()
        if how == "get":
            assert ray1.get(ref) == 1
        elif how == "wait":
            assert ray1.wait([ref]) == ([ref], [])
        else:
            assert ray1.get([ref, ref]) == [1, 1]
        again.open()
        end.wait()
        return "done"

    assert _free("CPU") == 1
    ref = waits.remote()
    helpers.wait_until(lambda: _free("CPU") == 1 and _running(waits=1, slow=1), what="a free CPU")
    assert ray1.get(ray1.remote(lambda: "other").remote()) == "other"
    helpers.wait_until(lambda: _free("CPU") == 1, what="the other task's CPU")
    gate.open()
    again.wait()
    assert _free("CPU") == 0
    end.open()
    assert ray1.get(ref) == "done"
    helpers.wait_until(lambda: _free("CPU") == 1, what="the CPU of a finished task")


def _running(**counts):
    """Whether so many tasks of these names run now."""
    import pyray.session

    names = [w["task"] for w in pyray.session.require().call("workers")]
    names = [n.rpartition(".")[2] for n in names if n]
    return all(names.count(name) == n for name, n in counts.items())


def test_the_documents_g_gives_cpus_back_and_keeps_gpus(gate, tmp_path):
    end = helpers.Gate(tmp_path / "end")
    again = helpers.Gate(tmp_path / "again")
    pyray.init(num_cpus=1, num_gpus=2)

    @pyray.remote
    def f():
        gate.wait()
        return 1

    @pyray.remote(num_cpus=1, num_gpus=1)
    def g():
        before = pyray.get_gpu_ids()
        value = pyray.get(f.remote())
        again.open()
        end.wait()
        assert pyray.get_gpu_ids() == before
        return value, before

    assert (_free("CPU"), _free("GPU")) == (1, 2)
    ref = g.remote()
    # The only CPU is f's now; g keeps its GPU.
    helpers.wait_until(lambda: _running(f=1, g=1), what="f and g at once on one CPU")
    assert (_free("CPU"), _free("GPU")) == (0, 1)
    gate.open()
    again.wait()
    assert (_free("CPU"), _free("GPU")) == (0, 1)
    end.open()
    value, gpus = pyray.get(ref)
    assert value == 1
    assert len(gpus) == 1
    helpers.wait_until(lambda: (_free("CPU"), _free("GPU")) == (1, 2), what="everything back")


def test_at_most_as_many_tasks_run_as_there_are_cpus(ray, tmp_path):
    """Of tasks that wait for children and then go on, never more than two are between waits."""

    @ray.remote
    def leaf():
        return 1

    @ray.remote
    def parent(i):
        active = _enter(tmp_path)
        for _ in range(3):
            active = max(active, _enter(tmp_path))
            _leave(tmp_path)
            ref = leaf.remote()
            _leave_while(tmp_path, lambda ref=ref: ray.get(ref))
        _leave(tmp_path)
        return active

    def _enter(path):
        (path / f"{os.getpid()}").touch()
        return len(os.listdir(path))

    def _leave(path):
        (path / f"{os.getpid()}").unlink(missing_ok=True)

    def _leave_while(path, call):
        _leave(path)
        call()
        _enter(path)

    most = ray.get([parent.remote(i) for i in range(30)])
    assert 1 <= max(most) <= 2
