"""RayEngine: the jobs of a sweep as tasks of a Ray cluster, one per run.

A task whose worker or node is lost is begun again by Ray, elsewhere; the run then goes on from its last
checkpoint, which lies on storage that all nodes share, or comes from :mod:`.mirror`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ...envs.data.places import VARIABLE as DATA
from .. import own_mitigations
from ..errors import FolderInUse, RunError
from ..execute import Outcome
from ..folder import RunFolder
from ..progress import Report, Reporter
from .engine import carry_out, died
from .folder import SweepFolder
from .jobs import Job
from .mirror import Mirror, carry_out_mirrored

_CALL_EVERY = 2.0
"""Seconds between a run's calls to the board: hundreds of runs must not drown it."""

_PATIENCE = 120.0
"""Seconds for the process of a lost node to end, before its run is said to be in use."""


class RayError(RunError):
    """Ray is not installed, there is no cluster, or the cluster cannot do what is asked."""


class RayEngine:
    """Tasks of a Ray cluster.

    Args:
        address: ``auto`` for the cluster that this machine is part of, ``host:port`` of a cluster's head, or
            ``local`` for a new cluster of this machine alone.
        device: as for ``pliant train``.
        report: gets the runs' progress.
        retries: how often a run is begun again after its worker or node was lost.
        cpus: cores that Ray sets aside for a run.
        gpus: of a GPU, for a run; a quarter lets four runs share one.
        mirror: where run folders are kept on the way if the nodes share no filesystem.

    Raises:
        RayError: on entering, if there is no such cluster or no node of it has room for a run.
    """

    def __init__(
        self,
        address: str,
        device: str,
        report: Reporter,
        retries: int,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        mirror: Mirror | None = None,
    ) -> None:
        self.address = address
        self.device = device
        self.report = report
        self.retries = retries
        self.cpus, self.gpus = cpus, gpus
        self.mirror = mirror
        self._ray: Any = _import_ray()
        self._refs: dict[Any, Path] = {}
        self._board: Any

    def __enter__(self) -> Self:
        ray = self._ray
        self._connect()
        try:
            self._check_room()
            # Beside the driver: there it lives as long as somebody looks at it.
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            self._board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
            self._task = ray.remote(_work).options(
                num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries
            )
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def submit(self, job: Job) -> None:
        """Have ``job`` carried out where there is room."""
        # A worker has another working directory.
        there = Job(job.spec, job.path.absolute())
        self._refs[self._task.remote(self._board, there, self.device, self.mirror, _named_files())] = job.path

    def poll(self, timeout: float) -> list[Outcome]:
        """What ended by now, after at most ``timeout`` seconds; what was reported is passed on."""
        ray = self._ray
        if not self._refs:
            return []
        ray.wait(list(self._refs), num_returns=1, timeout=timeout, fetch_local=False)
        done, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0, fetch_local=False)
        for report in ray.get(self._board.collect.remote()):
            self.report(report)
        return [self._end(ref) for ref in done]

    def stop(self) -> list[Path]:
        """Ask all runs to stop at their next rollout; returns those that will not begin any more."""
        begun = set(self._ray.get(self._board.stop.remote()))
        forgotten = {ref: path for ref, path in self._refs.items() if str(path.absolute()) not in begun}
        for ref in forgotten:
            del self._refs[ref]
        return list(forgotten.values())

    def _end(self, ref: Any) -> Outcome:
        path = self._refs.pop(ref)
        try:
            outcome: Outcome = replace(self._ray.get(ref), path=path)
        except self._ray.exceptions.RayTaskError as error:  # raised there; carry_out itself raises nothing
            return died(path, f"an unforeseen error in its worker: {_last_line(error)}")
        except self._ray.exceptions.RayError as error:  # lost more often than it may be begun again
            return died(path, f"its worker was lost {self.retries + 1} times: {_last_line(error)}")
        if self.mirror is not None:
            with suppress(FileNotFoundError):  # a run that never began
                self.mirror.fetch(path)
        return outcome

    def _connect(self) -> None:
        ray = self._ray
        ours: dict[str, Any] = {}
        if self.address == "local":
            # No pages for a browser, little room for results, which are small, no news of it to Ray's makers.
            ours = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            _see_that_somebody_listens(self.address)
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **ours)
        except (OSError, ValueError, RuntimeError) as error:
            raise RayError(
                f"no Ray cluster was found at {self.address!r}: start one with `ray start --head`, or use "
                f"--ray local for one of this machine alone ({str(error).splitlines()[0]})"
            ) from None

    def _check_room(self) -> None:
        """A run that fits no node would wait for ever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            raise RayError(
                f"no node of the Ray cluster has {self.cpus:g} CPUs and {self.gpus:g} GPUs for a run; the "
                f"nodes have {', '.join(map(_resources, nodes))}; ask for less with --cpus and --gpus"
            )


def _see_that_somebody_listens(address: str) -> None:
    """Ray itself tries an address for minutes before it gives up."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _resources(node: dict[str, float]) -> str:
    return f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs"


def _import_ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError:
        raise RayError('--ray needs: pip install "pliant[ray]"') from None
    return ray


def _named_files() -> dict[str, str]:
    """The environment variables that tell the driver, and have to tell its workers, where files lie."""
    data, own = os.environ.get(DATA), own_mitigations.files()
    named = {} if data is None else {DATA: data}
    return named | ({own_mitigations.VARIABLE: os.pathsep.join(map(str, own))} if own else {})


class _Board:
    """An actor between the runs and the driver: who may begin, how far everybody is, whether to stop."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.news: dict[str, Report] = {}
        self.stopped = False

    def may_begin(self, path: str) -> bool:
        """Asked by every run first of all; after a stop nobody may."""
        if not self.stopped:
            self.begun.add(path)
        return not self.stopped

    def tell(self, report: Report) -> bool:
        """How far a run has come; returns whether it is to stop."""
        self.news[report.run] = report
        return self.stopped

    def collect(self) -> list[Report]:
        """The latest report of every run that has made one since the last call."""
        news, self.news = self.news, {}
        return list(news.values())

    def stop(self) -> list[str]:
        """Let nobody begin any more; returns who has."""
        self.stopped = True
        return list(self.begun)


# In the worker -----------------------------------------------------------------------------------------


class _Line:
    """A run's line to the board: reports now and then, and hears whether to stop."""

    def __init__(self, call: Callable[[Report], bool]) -> None:
        self.call = call
        self.stopped = False
        self._next = 0.0

    def report(self, report: Report) -> None:
        """Pass ``report`` on if it is time to, or the last."""
        if time.monotonic() >= self._next or report.steps >= report.total_steps:
            self.stopped = self.call(report)
            self._next = time.monotonic() + _CALL_EVERY

    def interrupted(self) -> bool:
        """Whether the driver wants the run to stop."""
        return self.stopped


def _work(board: Any, job: Job, device: str, mirror: Mirror | None, named_files: dict[str, str]) -> Outcome:
    """Carry out a job on this node; ``named_files`` are the variables that name the driver's files."""
    os.environ.update(named_files)
    ray = _import_ray()
    if not ray.get(board.may_begin.remote(str(job.path))):
        return Outcome(job.path, "not started")
    line = _Line(lambda report: bool(ray.get(board.tell.remote(report))))
    if mirror is not None:
        return carry_out_mirrored(job, mirror, device, line.report, line.interrupted)
    if not SweepFolder.holds(job.path):
        return Outcome(
            job.path,
            "failed",
            f"the node {ray.util.get_node_ip_address()} does not see {str(job.path.parent)!r}: name a folder "
            "that all nodes share with --out, or keep the runs on the way at a URL with --sync-to",
        )
    _wait_until_free(RunFolder(job.path), _PATIENCE)
    return carry_out(job, device, line.report, line.interrupted)


def _wait_until_free(folder: RunFolder, patience: float) -> None:
    """Wait for the process on a lost node, which may outlive the connection to it for a moment."""
    deadline = time.monotonic() + patience
    while folder.begun and time.monotonic() < deadline:
        try:
            with folder.locked():
                return
        except FolderInUse:
            time.sleep(0.5)
