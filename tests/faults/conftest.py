"""One server of runs for all tests here, and each undisturbed run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_runs import Undisturbed, train
from run_server import RunServer, run_server


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunServer]:
    with run_server(tmp_path_factory.mktemp("logs")) as server:
        yield server


@pytest.fixture(scope="session")
def undisturbed(runs: RunServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Undisturbed]:
    """Return a function that gives the undisturbed run of these words, made the first time that it is asked for."""
    known: dict[tuple[str, ...], Undisturbed] = {}

    def of(*words: object) -> Undisturbed:
        key = tuple(map(str, words))
        if key not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            ended = train(runs, folder, *words)
            assert ended.code == 0, ended.err
            known[key] = Undisturbed(folder)
        return known[key]

    return of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
