"""Processes: order, laziness, and workers that die."""

from __future__ import annotations

import functools
import math
import os
import platform
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

import libtbx

from dials_diffuse.adapters.system import (
    cpu_count,
    map_in_processes,
    map_in_threads,
    one_thread_of_algebra,
    resolve_nproc,
)


def square(x):
    return x * x


def add(added, x):
    return x + added, os.getpid()


def die(x):
    if x == 3:
        os._exit(1)
    return x


def fail(x):
    raise ValueError(f"item {x}")


def test_number_of_processes():
    assert cpu_count() >= 1
    assert resolve_nproc(None) == resolve_nproc(libtbx.Auto) == cpu_count()
    assert resolve_nproc(7) == 7
    assert resolve_nproc(7, n_tasks=3) == 3
    assert resolve_nproc(7, n_tasks=0) == 1


@pytest.mark.parametrize("nproc", [1, 2])
@pytest.mark.parametrize("map_items", [map_in_processes, map_in_threads])
def test_results_come_in_the_order_of_the_items(map_items, nproc):
    assert list(map_items(square, range(20), nproc)) == [x * x for x in range(20)]
    assert list(map_items(square, [], nproc)) == []


class Adder:
    """Callable that counts in a file how often it was unpickled."""

    def __init__(self, value, path):
        self.value, self.path = value, path

    def __setstate__(self, state):
        self.__dict__ = state
        with open(self.path, "a") as handle:
            handle.write("x")

    def __call__(self, x):
        return x + self.value


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_callable_object_goes_to_each_process_once(tmp_path, nproc):
    path = tmp_path / "unpickled"
    path.touch()
    assert list(map_in_processes(Adder(10, path), range(40), nproc)) == list(range(10, 50))
    assert len(path.read_text()) <= (nproc if nproc > 1 else 0)
    assert list(map_in_processes(functools.partial(math.pow, 2), [3, 4], nproc)) == [8, 16]


@pytest.mark.parametrize("nproc", [1, 2])
def test_what_items_share_reaches_every_process(nproc):
    results = list(map_in_processes(functools.partial(add, 10), range(4), nproc))
    assert [value for value, _ in results] == [10, 11, 12, 13]
    assert (os.getpid() in {pid for _, pid in results}) is (nproc == 1)


@pytest.mark.parametrize("nproc", [1, 2])
@pytest.mark.parametrize("map_items", [map_in_processes, map_in_threads])
def test_items_are_taken_as_they_are_needed(map_items, nproc):
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = map_items(square, items(), nproc)
    assert next(results) == 0
    assert len(taken) <= 2 * nproc + 1
    results.close()


@pytest.mark.parametrize("nproc", [1, 2])
@pytest.mark.parametrize("map_items", [map_in_processes, map_in_threads])
def test_errors_of_the_function_are_passed_on(map_items, nproc):
    with pytest.raises(ValueError, match="item 0"):
        list(map_items(fail, range(3), nproc))


def test_a_worker_that_is_killed_is_an_error_not_a_hang():
    with pytest.raises(ChildProcessError, match="nproc"):
        list(map_in_processes(die, range(8), 2))


def algebra_threads(_=None):
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


def test_linear_algebra_has_one_thread():
    with one_thread_of_algebra():
        assert algebra_threads() <= {1}
    for threads in map_in_processes(algebra_threads, [0, 1], nproc=2):
        assert threads <= {1}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc only")
def test_memory_of_arrays_is_kept():
    code = """
import resource
import numpy
from dials_diffuse.adapters.system import keep_freed_memory
keep_freed_memory()
numpy.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    numpy.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # of 4 kbyte; 80 Mbyte are 20,000
    assert int(result.stdout) < 1000
