"""How much memory a device has, and how much of it a chunk of rows or columns may take.

A chunk's intermediate results stay within the budget (`chunk_size`), and so does what is kept for a backward pass
(`recomputed`). Gains and results come on top of that, and whatever else the program holds. All sizes are in bytes.

Source:
    Recomputation instead of storage: Chen, Xu, Zhang, Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016,
    arXiv:1604.06174, as in `torch.utils.checkpoint`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recurjac_plugin.errors import InputError

_CPU = 512 * 2**20  # bytes on a processor
_CUDA = 8 * 2**30  # on a CUDA device: a chunk's tensors have fewer than 2**31 elements, which not all kernels can count
_CACHED = 16 * 2**20  # bytes that a processor works on without waiting for its main memory
_SHARE = 4  # of the free memory: for a chunk, what a backward pass keeps, and as much for all the rest
# What torch says where memory runs out, on a processor and on a device; in scripted functions it is a part of more.
_NO_ROOM = ("can't allocate memory", "out of memory", "not enough memory")
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_budget(given: int | None, device: torch.device) -> int:
    """Bytes that one chunk may take.

    Args:
        given: what the caller asks for; None takes a quarter of the free memory of the device, at most 512 MiB on a
            processor and 8 GiB on a CUDA device.
        device: where is computed.

    Raises:
        InputError: not a whole number of bytes of at least 1.
    """
    if given is None:
        most = _CUDA if device.type == "cuda" else _CPU
        free = _free_on_cuda(device) if device.type == "cuda" else _free_here()
        return most if free is None else max(1, min(most, free // _SHARE))
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise InputError(
            f"`memory_budget` must be a whole number of bytes of at least 1, or None for a share of the free memory; "
            f"got {given!r}."
        )
    return given


def memory_of(device: torch.device) -> int | None:
    """All bytes of a device, those in use included; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [path.read_text(encoding="ascii").strip() for path in _CONTAINER if path.is_file()]
    return min([machine, *(int(limit) for limit in limits if limit.isdigit()), *_limit_of_process()])


def _limit_of_process() -> list[int]:
    """The bytes of addresses that this process may have, as `ulimit -v` sets them; empty without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if limit == resource.RLIM_INFINITY else [limit]


def _free_on_cuda(device: torch.device) -> int:
    """What the driver has, and what torch has taken from it but does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _free_here() -> int | None:
    """Main memory that is not used, or holds files that can be read again; None where the system does not say."""
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        available = None
    if available is not None:
        return int(available[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such function, or no such name in it
        return None


def ran_out(error: BaseException) -> bool:
    """Whether an exception, of Python's or of torch's, says that there is no more memory."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _NO_ROOM)


def chunk_size(budget: int, elements: int, like: Tensor) -> int:
    """How many rows or columns fit into a budget at once, ``max(1, budget // (elements * bytes per element))``.

    On a processor no more than its caches hold: larger chunks are slower, not faster.

    Args:
        budget: bytes for one chunk.
        elements: of all tensors that are needed for one row or column at the same time.
        like: a tensor of their dtype.
    """
    if like.device.type == "cpu":
        budget = min(budget, _CACHED)
    return max(1, budget // max(1, elements * like.element_size()))


Part = TypeVar("Part")
Result = TypeVar("Result")


def recomputed(function: Callable[[Part], Result], kept: int, budget: int) -> Callable[[Part], Result]:
    """A function of one chunk, with bounded memory for the backward pass.

    Where autograd would keep more than the budget, every chunk is computed a second time in the backward pass instead.

    Args:
        function: must give the same again when it is called again.
        kept: bytes that autograd would keep for all chunks.
        budget: bytes that it may keep.
    """
    if not torch.is_grad_enabled() or kept <= budget:
        return function
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
