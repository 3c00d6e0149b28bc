"""torch as a run starts it: with its number of threads, also where the working directory is gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use ``n`` threads inside; a program that calls us keeps its own setting."""
    already = sys.modules.get("torch")
    before = already.get_num_threads() if already is not None else None
    start_torch()
    import torch

    torch.set_num_threads(n)
    try:
        yield
    finally:
        if before is not None:
            torch.set_num_threads(before)


def start_torch() -> None:
    """Import torch and what it loads later, where the working directory was deleted.

    MKL ends the process when it is loaded there, and torch's compiler, which optimizers import, raises.
    """
    try:
        os.getcwd()
    except OSError:
        gone = os.open(".", os.O_RDONLY)
        os.chdir(os.sep)
        try:
            import torch
            import torch._dynamo

            torch.ones(2, 2) @ torch.ones(2, 2)
        finally:
            os.fchdir(gone)
            os.close(gone)
