"""Worker processes that outlive each other: one that dies takes no other with it; its work is begun again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any, Generic, Self, TypeVar

from .progress import Report, Reporter

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

_CONTEXT = multiprocessing.get_context("spawn")
"""A forked torch can hang in its thread pool, and Windows and macOS have nothing else."""


class WorkerDied(Exception):
    """The process that did a piece of work ended, and so did those that tried again."""


@dataclass
class _Piece(Generic[Key]):
    key: Key
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    attempts: int = 0


class Workers(Generic[Key, Result]):
    """``count`` processes that do pieces of work, each ``work(*arguments, report, interrupted)``.

    Every process is an executor of its own: the standard pool gives up all of its work when one of its
    processes dies, and cannot tell whose work it was.

    Args:
        count: processes at a time; each is started when there is work for it.
        report: gets what the pieces of work report.
        retries: how often a piece is begun again after its process died.
    """

    def __init__(self, count: int, report: Reporter, retries: int = 0) -> None:
        self.report = report
        self.retries = retries
        # A byte without a lock: a process that is killed while it holds one would block all others.
        self._stop = _CONTEXT.RawValue("b", 0)
        self._free = [_Worker(self._stop) for _ in range(count)]
        self._waiting: deque[_Piece[Key]] = deque()
        self._busy: dict[Future[Result], tuple[_Worker, _Piece[Key]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for worker in [*self._free, *(worker for worker, _ in self._busy.values())]:
            worker.close()

    def submit(self, key: Key, work: Callable[..., Result], *arguments: Any) -> None:
        """Have ``work`` done when a process is free; ``key`` comes back with what it returns."""
        self._waiting.append(_Piece(key, work, arguments))

    def poll(self, timeout: float) -> list[tuple[Key, Result | WorkerDied]]:
        """What was finished by now, after at most ``timeout`` seconds; what was reported is passed on."""
        while self._waiting and self._free:
            worker, piece = self._free.pop(), self._waiting.popleft()
            self._busy[worker.submit(piece)] = worker, piece
        done, _ = wait(self._busy, timeout=timeout, return_when=FIRST_COMPLETED)
        # The idle ones too: a report may arrive after the result of the work that made it.
        for worker in [*self._free, *(worker for worker, _ in self._busy.values())]:
            worker.pass_on(self.report)
        return [ended for future in done if (ended := self._end(future)) is not None]

    def stop(self) -> list[Key]:
        """Ask all work to stop, and forget what has not begun, which is returned."""
        self._stop.value = 1
        forgotten = [piece.key for piece in self._waiting]
        self._waiting.clear()
        return forgotten

    def _end(self, future: Future[Result]) -> tuple[Key, Result | WorkerDied] | None:
        worker, piece = self._busy.pop(future)
        worker.pass_on(self.report)
        if not isinstance(future.exception(), BrokenProcessPool):
            self._free.append(worker)
            return piece.key, future.result()
        worker.close()
        self._free.append(_Worker(self._stop))
        piece.attempts += 1
        if piece.attempts <= self.retries and not self._stop.value:
            self._waiting.appendleft(piece)
            return None
        times = f", {piece.attempts} times" if piece.attempts > 1 else ""
        return piece.key, WorkerDied(f"its process was killed{times}; it may have run out of memory")


class _Worker:
    """One process, with a queue of its own: whatever it breaks when it dies is thrown away with it."""

    def __init__(self, stop: Any) -> None:
        self._reports: Queue[Report] = _CONTEXT.Queue()
        self._executor = ProcessPoolExecutor(
            1, mp_context=_CONTEXT, initializer=_adopt, initargs=(self._reports, stop)
        )

    def submit(self, piece: _Piece[Any]) -> Future[Any]:
        return self._executor.submit(_do, piece.work, piece.arguments)

    def pass_on(self, report: Reporter) -> None:
        while True:
            try:
                report(self._reports.get_nowait())
            except Empty:
                return

    def close(self) -> None:
        self._executor.shutdown(wait=True)
        self._reports.close()


# In the child ------------------------------------------------------------------------------------------

_reports: Queue[Report]
_stop: Any
_idle = threading.Event()
_orphaned = threading.Event()


def _adopt(reports: Queue[Report], stop: Any) -> None:
    """Keep what the parent shares; a Ctrl-C of the terminal is the parent's to hear."""
    global _reports, _stop
    _reports, _stop = reports, stop
    reports.cancel_join_thread()  # reports that nobody reads any more must not keep the process alive
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _idle.set()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Nobody will ask for more once the parent is gone: let the run be saved, then end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _orphaned.set()
    _idle.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _do(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _idle.clear()
    try:
        return work(*arguments, _reports.put, lambda: bool(_stop.value) or _orphaned.is_set())
    finally:
        _idle.set()
