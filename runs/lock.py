"""One writer per run folder: a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import FolderInUse, RunFolderError

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of the file at ``path`` within the block; do not wait for it.

    The file stays when the lock is given back: were it removed, two processes could each hold a lock.

    Args:
        path: of the lock's file; made if it is not there.
        what: it guards, for the error's text.

    Raises:
        FolderInUse: another process has it, or another thread of this one.
        RunFolderError: the file cannot be made.

    Warns:
        RuntimeWarning: the file system knows no locks; the block is entered without one.
    """
    # A soft lock, which is nothing but the file's existence, would outlive a process that is killed.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(
            f"{what} is in use by {_holder(path)}, and two would write to the same files; wait until it is "
            "done, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise RunFolderError(
                f"{what} cannot be locked, so nothing was written: {error.strerror or error}; make it "
                "writable"
            ) from None
        text = f"{what} is on a file system without locks: see to it that no other process writes there"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        yield
        return
    try:
        with suppress(OSError):  # a full disk: then nobody is named
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Who holds the lock, as it wrote there; where a locked file cannot be read (Windows), somebody."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(200) or "another process"
    except OSError:
        return "another process"
