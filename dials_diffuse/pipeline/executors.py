"""Run tasks as children of this process, or on the workers of a dask cluster."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

from dials_diffuse.pipeline.tasks import Children, Task, TaskError, TaskResult, run_task

logger = logging.getLogger("dials.diffuse.pipeline.executors")


class LocalExecutor:
    """Tasks as children of this process, so many at a time.

    Args:
        nproc: processes in all
        retries: see run_task
        inherit: file descriptors for the children
    """

    def __init__(self, nproc: int, retries: int = 1, inherit: tuple[int, ...] = ()):
        self.nproc = nproc
        self.retries = retries
        self.inherit = inherit

    def processes_for(self, n_tasks: int) -> int:
        """How many processes each of n_tasks that run together may start"""
        return max(1, self.nproc // max(1, n_tasks))

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Results as they come.

        Raises:
            TaskError: one failed; those that run then are killed.
        """
        children = Children()
        pool = ThreadPoolExecutor(self.nproc)
        try:
            futures = [
                pool.submit(run_task, task, self.retries, children, self.inherit) for task in tasks
            ]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
        finally:
            pool.shutdown()

    def close(self) -> None:
        """Nothing is left open."""


class DaskExecutor:
    """Tasks on the workers of a dask cluster, which must see the same folders.

    Args:
        scheduler: address or scheduler file; None: a cluster of nproc workers on this machine
        nproc: see scheduler
        retries: see run_task; also how often dask may move a task whose worker was killed

    Raises:
        ValueError: the package distributed is missing, or the scheduler does not answer.
    """

    def __init__(self, scheduler: str | None, nproc: int, retries: int = 1):
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise ValueError(
                "mp.method=dask needs the package distributed (pip install dials_diffuse[dask], or conda "
                "install distributed)"
            ) from error
        self.retries = retries
        self._cluster = None
        if scheduler is None:
            self._cluster = LocalCluster(
                n_workers=nproc, threads_per_worker=1, processes=True, dashboard_address=None
            )
            target = {"address": self._cluster}
        elif scheduler.endswith(".json"):
            target = {"scheduler_file": scheduler}
        else:
            target = {"address": scheduler}
        try:
            self._client = Client(**target, timeout=30, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"No dask scheduler answers at {scheduler}: {error}") from error
        logger.info("Tasks run on %s", self._client.scheduler.address)

    def processes_for(self, n_tasks: int) -> int:
        """A worker is one process; parallel are the batches."""
        return 1

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskResult]:
        """Results as they come.

        Raises:
            TaskError: one failed; the others are cancelled, and those that run then are killed.
        """
        from distributed import as_completed as as_they_come
        from distributed.scheduler import KilledWorker

        name = uuid.uuid4().hex
        futures = {
            self._client.submit(
                _run_on_worker, name, task, self.retries, pure=False, retries=self.retries
            ): task
            for task in tasks
        }
        try:
            for future in as_they_come(list(futures), loop=self._client.loop):
                try:
                    yield future.result()
                except KilledWorker as error:
                    raise TaskError(
                        f"{futures[future].name} failed: the dask workers that ran it were killed "
                        f"({error}). Out of memory? Try a smaller batch_size"
                    ) from error
        except BaseException:
            self._client.cancel(list(futures))
            # Or they would go on writing into the folder of the next run
            with contextlib.suppress(Exception):
                self._client.run(_stop_on_worker, name)
            raise

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        with contextlib.suppress(Exception):
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()


# Of a dask worker: run -> its processes
_children: dict[str, Children] = {}


def _run_on_worker(run: str, task: Task, retries: int) -> TaskResult:
    return run_task(task, retries, _children.setdefault(run, Children()))


def _stop_on_worker(run: str) -> None:
    _children.setdefault(run, Children()).stop()
