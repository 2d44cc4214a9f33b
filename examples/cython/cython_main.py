"""Run Cython functions and classes as pyray tasks.

Build the package beside this file first, then pick an example, or run them all::

    pip install scipy        # for the BLAS example only
    pip install -e .
    python cython_main.py --help
    python cython_main.py all

Every example has the same shape: take a function out of a compiled module, wrap it with
``ray.remote(function)``, call ``.remote(...)``, and fetch what it returned with ``ray.get``.
"""

import itertools
import sys
import time

import click
import numpy as np

import pyray as ray

try:
    from cython_examples import cython_class, cython_simple, kernels, masked_log
except ImportError as error:
    sys.exit(f"{error}\nBuild the examples first: pip install -e {sys.path[0]}")

try:
    from cython_examples import blas_kernels
except ImportError:  # scipy was missing when the package was built, or is now
    blas_kernels = None


class LeftOutError(Exception):
    """An example can't run here, and that is no failure."""


def expect(condition, what):
    """End the example with an error if what it claims is not so (asserts can be switched off)."""
    if not condition:
        raise RuntimeError(f"this should hold, but does not: {what}")


def say(text):
    click.echo(f"  {text}")


def random_points(count, dimensions):
    return np.random.default_rng(7).normal(size=(count, dimensions))


def reference_kernel_matrix(points, gamma):
    """Compute the matrix of ``kernels.kernel_matrix`` with numpy alone."""
    gaps = points[:, None, :] - points[None, :, :]
    return np.exp(-gamma * np.square(gaps).sum(axis=2))


def original(error):
    """Describe what was raised in the worker, without the traceback that ``str(error)`` gives."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"


# --- The examples -----------------------------------------------------------------------------


def plain_def():
    label = ray.remote(cython_simple.label)

    names = ["numpy", "arrow", "cython"]
    labels = ray.get([label.remote(name, width=16) for name in names])
    for line in labels:
        say(line)
    expect(labels == [cython_simple.label(name, width=16) for name in names], "tasks = calls")


def recursive():
    fib = ray.remote(cython_simple.fib)

    values = ray.get([fib.remote(n) for n in range(15)])
    say(f"fib(0) … fib(14) = {values}")
    expect(values[14] == 377 and values[13] + values[12] == values[14], "a Fibonacci sequence")


def typed_parameter():
    collatz_steps = ray.remote(cython_simple.collatz_steps)

    steps = ray.get(collatz_steps.remote(27))
    say(f"from 27 it takes {steps} steps down to 1")
    expect(steps == 111, "27 takes 111 steps")

    # Cython checks the argument in the worker; the error comes back where the result is fetched.
    try:
        ray.get(collatz_steps.remote("twenty-seven"))
    except TypeError as error:
        say(f"a str instead: {original(error)}")
    else:
        expect(False, "a str for a C integer is a TypeError")


def cpdef_function():
    common_divisor = ray.remote(cython_simple.common_divisor)

    pairs = [(1071, 462), (2**40, 6**20), (17, 5)]
    divisors = ray.get([common_divisor.remote(a, b) for a, b in pairs])
    for (a, b), divisor in zip(pairs, divisors, strict=True):
        say(f"gcd({a}, {b}) = {divisor}")
    expect(divisors == np.gcd(*np.transpose(pairs)).tolist(), "numpy's gcd says the same")


def wrapped_cdef():
    expect(not hasattr(cython_simple, "horner"), "a cdef function can't be seen from Python")
    polynomial = ray.remote(cython_simple.polynomial)

    coefficients = np.array([2.0, -3.0, 0.5, 4.0])
    stored = ray.put(coefficients)
    values = ray.get([polynomial.remote(stored, x) for x in (-1.0, 0.0, 2.0)])
    say(f"2x³ - 3x² + x/2 + 4 at -1, 0 and 2 is {values}")
    expect(np.allclose(values, np.polyval(coefficients, [-1.0, 0.0, 2.0])), "numpy agrees")


def extension_class():
    # Three ways to put a Cython class to work: a function that builds an instance, an unbound
    # method, whose first argument is the instance, and instances as arguments and results.
    moments_of = ray.remote(cython_class.moments_of)
    merged = ray.remote(cython_class.Moments.merged)

    numbers = np.random.default_rng(11).normal(loc=5.0, scale=2.0, size=40_000)
    parts = [moments_of.remote(part) for part in np.array_split(numbers, 4)]
    whole = ray.get(
        merged.remote(merged.remote(parts[0], parts[1]), merged.remote(parts[2], parts[3]))
    )
    say(f"four parts, merged in a tree of tasks: {whole}")
    expect(type(whole) is cython_class.Moments, "an instance came back")
    expect(whole.count == numbers.size, "no number was lost")
    expect(np.isclose(whole.mean, numbers.mean()), "numpy's mean is the same")
    expect(np.isclose(whole.deviation, numbers.std()), "numpy's deviation is the same")


def numpy_function():
    remote_masked_log = ray.remote(masked_log.masked_log)

    values = np.random.default_rng(3).normal(size=(300, 200))
    result = ray.get(remote_masked_log.remote(values, fill=-1.0))
    reference = np.full_like(values, -1.0)
    np.log(values, out=reference, where=values > 0)
    say(f"{(values > 0).sum()} of {values.size} numbers had a logarithm")
    expect(np.allclose(result, reference), "numpy computes the same")


def memory_buffers():
    points, gamma = random_points(200, 3), 0.5
    reference = reference_kernel_matrix(points, gamma)

    # Here, in the driver, filling an array of one's own works as it always does.
    mine = np.zeros((200, 200))
    kernels.fill_kernel_matrix(mine, points, gamma)
    expect(np.allclose(mine, reference), "the in-place kernel is right")

    # As a task it can't: the matrix gets there as a read-only view of shared memory.
    fill = ray.remote(kernels.fill_kernel_matrix)
    untouched = np.zeros((200, 200))
    try:
        ray.get(fill.remote(untouched, points, gamma))
    except ValueError as error:
        say(f"in place, on a transferred array: {original(error)}")
    else:
        expect(False, "writing into a transferred array is a ValueError")
    expect(not untouched.any(), "the driver's own array stays as it was")

    # Behind a function that allocates the matrix and returns it, the same kernel works.
    kernel_matrix = ray.remote(kernels.kernel_matrix)
    result = ray.get(kernel_matrix.remote(points, gamma))
    expect(np.allclose(result, reference), "the returned matrix equals numpy's")
    say("returned from the task: a 200 × 200 matrix, the same as numpy's")


def blas():
    if blas_kernels is None:
        raise LeftOutError("scipy was not there when the examples were built")
    dot = ray.remote(blas_kernels.dot)
    kernel_matrix_blas = ray.remote(blas_kernels.kernel_matrix_blas)

    a, b = np.random.default_rng(5).normal(size=(2, 100_000))
    product = ray.get(dot.remote(a, b))
    say(f"ddot of two vectors of 100,000 numbers: {product:.6f}")
    expect(np.isclose(product, a @ b), "numpy's product is the same")

    points, gamma = random_points(400, 20), 0.05
    result = ray.get(kernel_matrix_blas.remote(points, gamma))
    expect(np.allclose(result, reference_kernel_matrix(points, gamma)), "numpy's matrix is equal")
    expect(np.array_equal(result, result.T), "the matrix is symmetric")
    say("a 400 × 400 kernel matrix through dsyrk, the same as numpy's")


def timing(workers, size):
    ripple_sum = ray.remote(kernels.ripple_sum)
    numbers = np.random.default_rng(1).uniform(-3.0, 3.0, size)
    stored = ray.put(numbers)  # once; every task reads these same pages
    bounds = np.linspace(0, size, 4 * workers + 1, dtype=int).tolist()
    slices = list(itertools.pairwise(bounds))

    def alone():
        return kernels.ripple_sum(numbers)

    def shared():
        return sum(ray.get([ripple_sum.remote(stored, low, high) for low, high in slices]))

    shared()  # the workers' first task also imports numpy
    times, sums = {alone: [], shared: []}, {}
    for _ in range(3):
        for run in (alone, shared):
            started = time.perf_counter()
            sums[run] = run()
            times[run].append(time.perf_counter() - started)
    expect(np.isclose(sums[alone], sums[shared]), "both ways give the same sum")

    best_alone, best_shared = min(times[alone]), min(times[shared])
    say(f"{size:,} numbers ({numbers.nbytes / 1e6:.0f} MB), best of three:")
    say(f"serial, in the driver     {best_alone * 1e3:8.1f} ms")
    say(f"{len(slices)} tasks on {workers} workers     {best_shared * 1e3:8.1f} ms")
    say(f"speed-up                  {best_alone / best_shared:8.2f} ×")


def shared_result():
    if blas_kernels is None:
        raise LeftOutError("scipy was not there when the examples were built")
    fill_rows = ray.remote(blas_kernels.fill_kernel_rows_blas)

    points, gamma = random_points(400, 20), 0.05
    stored = ray.put(points)
    matrix = ray.shared.empty((400, 400))  # in the store, and writable
    bounds = itertools.pairwise(range(0, 401, 100))
    # Each task gets a view of these very pages, and fills it in place: nothing is sent back.
    ray.get([fill_rows.remote(matrix[low:high], stored, gamma, low) for low, high in bounds])
    expect(np.allclose(matrix, reference_kernel_matrix(points, gamma)), "numpy's matrix is equal")
    say("four tasks have filled 100 rows each of one 400 × 400 matrix through dgemm")

    # From the seal on it is an object like others, where it lies; to Cython too it is read-only.
    sealed = matrix.seal()
    try:
        ray.get(fill_rows.remote(sealed, stored, gamma))
    except ValueError as error:
        say(f"in place, once it is sealed: {original(error)}")
    else:
        expect(False, "writing into a sealed array is a ValueError")


# --- The command line -------------------------------------------------------------------------

EXAMPLES = {
    "example1": ("an ordinary def function", plain_def),
    "example2": ("a recursive function", recursive),
    "example3": ("a function with a typed parameter, and a bad argument for it", typed_parameter),
    "example4": ("a cpdef function", cpdef_function),
    "example5": ("a cdef function behind a def wrapper", wrapped_cdef),
    "example6": ("a Cython class, its methods and its instances", extension_class),
    "example7": ("a numpy function: masked logarithm", numpy_function),
    "example8": ("memory buffers: why a task returns its result", memory_buffers),
    "example9": ("BLAS through scipy (optional)", blas),
    "example10": ("timing: a kernel over a large shared array, serial and parallel", timing),
    "example11": ("BLAS into a shared result, from several tasks (optional)", shared_result),
}


class InOrder(click.Group):
    """A group that lists its commands as they were added, where click sorts by name."""

    def list_commands(self, context):
        return list(self.commands)


@click.group(cls=InOrder)
@click.option("--workers", default=2, show_default=True, help="CPUs that pyray may use.")
@click.option("--size", default=12_000_000, show_default=True, help="Numbers to time over.")
@click.pass_context
def cli(context, workers, size):
    """Run Cython code in pyray tasks: one command for each example, and one for all of them."""
    context.obj = {"workers": workers, "size": size}


def run_example(name, options):
    """Run one example; return its outcome as a word, ``ok``, ``left out`` or ``FAILED``."""
    title, function = EXAMPLES[name]
    click.secho(f"{name}: {title}", bold=True)
    try:
        function(**options) if function is timing else function()
    except LeftOutError as reason:
        say(f"left out: {reason}")
        return "left out"
    except Exception as error:
        say(f"FAILED with {type(error).__name__}: {error}")
        return "FAILED"
    return "ok"


def run_examples(names, options):
    """Run examples in one session; return the outcome and the seconds of each."""
    outcomes = {}
    ray.init(num_cpus=options["workers"])
    try:
        for name in names:
            started = time.perf_counter()
            outcome = run_example(name, options)
            outcomes[name] = outcome, time.perf_counter() - started
    finally:
        ray.shutdown()
    return outcomes


def add_command(name):
    @cli.command(name, help=EXAMPLES[name][0][0].upper() + EXAMPLES[name][0][1:] + ".")
    @click.pass_obj
    def command(options):
        ((outcome, _),) = run_examples([name], options).values()
        sys.exit(outcome == "FAILED")


for _name in EXAMPLES:
    add_command(_name)


@cli.command("all")
@click.pass_obj
def run_all(options):
    """Run every example, and end with a summary."""
    outcomes = run_examples(EXAMPLES, options)
    click.echo()
    for name, (outcome, seconds) in outcomes.items():
        click.echo(f"{name:<10} {outcome:<9} {seconds:7.3f} s  {EXAMPLES[name][0]}")
    failed = sum(outcome == "FAILED" for outcome, _ in outcomes.values())
    left_out = sum(outcome == "left out" for outcome, _ in outcomes.values())
    click.echo(
        f"{len(outcomes) - failed - left_out} ran well, {left_out} left out, {failed} failed"
    )
    sys.exit(failed > 0)


if __name__ == "__main__":
    cli()
