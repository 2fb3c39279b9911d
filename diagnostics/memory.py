"""Will it fit? Asked before the work starts."""

import os
from pathlib import Path

import torch

from .errors import NotEnoughMemory


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device (CPU: what Linux calls available, else all of it)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return min(int(found["MemAvailable"].split()[0]) * 1024, _left_to_container())
    except (OSError, KeyError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
        return pages * 4096


def _left_to_container() -> int:
    """What the container that this process is in may still take (cgroup v2), if there is one with a limit."""
    try:
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text("ascii")) for name in ("max", "current")
        )
    except (OSError, ValueError):  # no cgroups, or no limit: "max"
        return 2**63
    return max(limit - used, 0)


def basis_bytes(size: int, probes: int, depth: int, itemsize: int) -> int:
    """Memory of a block Lanczos run: ``(depth + 1) b P`` numbers of basis, five float64 blocks of work."""
    block = min(probes, size) * size
    return min(block * (depth + 1), size * size) * itemsize + 5 * block * 8


def check_lanczos(size: int, probes: int, depth: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a run whose basis does not fit.

    Raises:
        NotEnoughMemory: says what is needed, what there is, and the largest depth that fits.
    """
    room = available_bytes(device)
    need = basis_bytes(size, probes, depth, dtype.itemsize)
    if need <= room:
        return
    fits = depth
    while fits > 0 and basis_bytes(size, probes, fits, dtype.itemsize) > room:
        fits -= 1
    advice = f"use depth={fits} or fewer probes" if fits else "use fewer probes or a smaller parameter group"
    raise NotEnoughMemory(
        f"block Lanczos with probes={probes}, depth={depth} on {size:,} parameters needs {need / 2**30:.1f} "
        "GiB "
        f"on {device}, {room / 2**30:.1f} GiB are available; {advice}"
    )


def check_dense(rows: int, columns: int, itemsize: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse a dense ``[rows, columns]`` matrix (held three times over while working) that does not fit.

    Raises:
        NotEnoughMemory: says what is needed, what there is and what to do.
    """
    room, need = available_bytes(device), 3 * rows * columns * itemsize
    if need > room:
        raise NotEnoughMemory(
            f"{what} of {rows:,} x {columns:,} needs {need / 2**30:.1f} GiB on {device}, "
            f"{room / 2**30:.1f} GiB are available; {remedy}"
        )
