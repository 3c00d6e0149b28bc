"""Settings of the whole suite: one thread for torch, so that tests that run side by side do not fight for cores."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)
