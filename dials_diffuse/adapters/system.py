"""Processes and processors: what the machine offers and how work is spread over it."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import itertools
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from threadpoolctl import threadpool_limits

import libtbx

logger = logging.getLogger("dials.diffuse.system")

# The same whatever the Python (3.14 changed the default from fork): a fork of a process with threads may
# deadlock, and takes along what it will never use
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def cpu_count() -> int:
    """Processors this process may use, as DIALS counts them."""
    try:
        from dials.util.system import CPU_COUNT
    except ImportError:
        from dials.util.mp import available_cores

        return int(available_cores())
    return int(CPU_COUNT)


def resolve_nproc(nproc: int | None, n_tasks: int | None = None) -> int:
    """The number of processes for `nproc` (None or libtbx.Auto: all processors),
    never more than there are tasks."""
    n = cpu_count() if nproc is None or nproc is libtbx.Auto else int(nproc)
    if n_tasks is not None:
        n = min(n, n_tasks)
    return max(1, n)


def one_thread_of_algebra() -> contextlib.AbstractContextManager:
    """Linear algebra without threads of its own, from now on or within a with block.

    Our matrices are small and our processes many: threads that wait for work by spinning cost more
    processor time than they save.
    """
    import numpy  # noqa: F401  only a library that is loaded can be told

    return threadpool_limits(limits=1, user_api="blas")


# Of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# Of linux/falloc.h
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01


def keep_freed_memory() -> None:
    """Let this process keep the memory of arrays that were freed, where the C library can (glibc).

    Every image needs the same hundred megabytes again. Without this, extraction of a 6 Mpixel image
    takes 135 ms in place of 79, because the system hands out the pages one by one. For processes of our
    own: it can't be undone.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_MMAP_MAX, 0)


def free_range(descriptor: int, offset: int, size: int) -> None:
    """Give back the disk and the memory of a part of a file, which then reads as zeros, where the
    system can (Linux)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        fallocate = ctypes.CDLL(None).fallocate
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, size)


# Of a worker process: the function that it calls with each item
_function: Callable | None = None


def _start_worker(function: Callable) -> None:
    global _function
    _function = function
    # Ctrl-C goes to all processes of a terminal; the one that started the workers ends them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread_of_algebra()
    keep_freed_memory()


def _call_function(item):
    return _function(item)


def _results_in_order(submit: Callable, items: Iterable, ahead: int) -> Iterator:
    """Yield submit(item).result() in the order of the items, with at most so many submitted ahead."""
    queue = iter(items)
    waiting = collections.deque(submit(item) for item in itertools.islice(queue, ahead))
    while waiting:
        result = waiting.popleft().result()
        for item in itertools.islice(queue, 1):
            waiting.append(submit(item))
        yield result


def map_in_threads(function: Callable, items: Iterable, n_threads: int) -> Iterator:
    """Yield function(item) in the order of the items, computed in threads that are one item ahead.

    For what spends its time in numpy, in compiled code that needs no Python, or in files.
    """
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            yield from _results_in_order(functools.partial(pool.submit, function), items, n_threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def map_in_processes(function: Callable, items: Iterable, nproc: int) -> Iterator:
    """Yield function(item) in the order of the items.

    With nproc = 1 everything happens in this process. Otherwise the function and its arguments
    must be picklable, since workers start afresh (START_METHOD) with the function's module imported. No more than two tasks a process wait at a time, so that neither inputs nor
    results pile up in memory.

    The function goes to each worker once, and only the items go with each task. So what all items
    share belongs into the attributes of a callable object, or into functools.partial; no module
    needs a global variable for it:

        @dataclass(frozen=True)
        class _ExtractImage:
            extractor: Extractor

            def __call__(self, number: int) -> ExtractedImage:
                return self.extractor.extract_image(number)

        for result in map_in_processes(_ExtractImage(extractor), numbers, nproc): ...

    Args:
        function: a function of a module, or a callable object of a class of a module
        items: its arguments, taken as they are needed
        nproc: number of worker processes

    Raises:
        ChildProcessError: a worker process was killed (out of memory, usually).
    """
    if nproc == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        # Imported once in the server, not once in every worker
        context.set_forkserver_preload([getattr(function, "func", function).__module__])
    try:
        with ProcessPoolExecutor(
            max_workers=nproc, mp_context=context, initializer=_start_worker, initargs=(function,)
        ) as pool:

            def submit(item):
                try:
                    return pool.submit(_call_function, item)
                except EOFError as error:
                    # The server that starts the workers was killed
                    raise BrokenProcessPool("a worker did not start") from error

            try:
                yield from _results_in_order(submit, items, 2 * nproc)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except (BrokenProcessPool, ConnectionError) as error:
        # A broken pipe leads to a worker, or to one of multiprocessing's own servers, that was killed
        # while it was being started or had a task on its way
        raise ChildProcessError(
            "A worker process was killed (out of memory?): try a smaller nproc or output.batch_size"
        ) from error
