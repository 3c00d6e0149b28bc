"""``--seeds N --jobs J``: a run per seed, several at a time, one live table, and what they come to together."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import shortest, slug
from ..signals import EXIT_CODES
from ._options import Flag
from ._output import current

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..runs import Plan
    from ..runs.pool import Job

OWN = ("--seeds", "--jobs", "--seed", "--run-dir", "--resume", "--threads")  # the pool gives these to each run itself


def seeds_flags(panel: str) -> list[Flag]:
    """Return the flags that make a command run many seeds."""
    return [
        Flag("seeds", "--seeds", help="Runs, of seeds S, S+1, …; started again, only what is missing is run", default="1",
             metavar="N", panel=panel),
        Flag("jobs", "--jobs", help="Runs at the same time, with --seeds; threads are shared out", default="1",
             metavar="J", panel=panel),
    ]  # fmt: skip


def count(text: str | None, flag: str, most: int) -> int:
    """Return a number of runs as it was typed."""
    if text is None:
        return 1
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise ConfigError(f"{flag} is {text}, must be an integer in 1…{most}", param=flag, value=text)
    return int(text)


def check_seeds(resolved: Resolved, given: dict[str, Any]) -> None:
    """Raise ConfigError for what cannot be meant for many runs at once."""
    if given["fork"]:
        raise ConfigError("--fork starts one run from another, --seeds makes many new ones",
                          hint="fork them one by one, or give `--init-from CKPT`, whose weights all start from",
                          param="--fork")  # fmt: skip
    if given["resume"] not in (None, "auto"):
        raise ConfigError("--resume names one run, --seeds goes on with all of them by itself", param="--resume")
    seed = resolved.values["run.seed"]
    if seed.origin == "--set":
        raise ConfigError(f"--set gives every run of --seeds the same seed {seed.value}",
                          hint=f"give `--seed {seed.value}`, the first of them", param="--set", value=seed.value)  # fmt: skip


def run_seeds(plan: Plan, given: dict[str, Any], n_seeds: int, n_jobs: int, runs_dir: str) -> int:
    """Make the runs of a plan for ``n_seeds`` seeds and show what they come to; return the exit code."""
    from ..runs.commands import group_of
    from ..runs.past import values_digest
    from ..runs.pool import Pool, find_jobs

    out, resolved = current(), plan.resolved
    first, threads = resolved["run.seed"], _threads(plan.threads, n_jobs)
    parent = Path(runs_dir) / slug(plan.target.name) / slug(plan.subject)
    seeds = [first + i for i in range(n_seeds)]
    if seeds[-1] > 2**32 - 1:
        raise ConfigError(f"--seeds {n_seeds} from seed {first} goes beyond {2**32 - 1}", param="--seeds")
    digest = values_digest(resolved, plan.target.name, given["init_from"])
    where = None if given["run_dir"] is None else Path(given["run_dir"])
    jobs = find_jobs(seeds, digest, parent, where, given["name"])
    for job in jobs:
        job.refresh()
        if job.is_over(digest, resolved["run.steps"]):
            job.status, job.exit_code = "finished", 0
            out.note(f"seed {job.seed}: finished already in {shortest(job.path)}")
    words = _words(out.argv[1:], group_of(plan.target.kind), plan.target.name)

    def command(job: Job) -> list[str]:
        return [*words, "--seed", str(job.seed), "--run-dir", str(job.path), "--resume", "auto", "--no-link", "--threads",
                str(threads), "--json", "--quiet"]  # fmt: skip

    missing = [job for job in jobs if job.exit_code is None]
    pool = Pool(missing, n_jobs, command, _main)
    out.note(f"{len(missing)} of {n_seeds} runs to make, {min(n_jobs, len(missing))} at a time, {threads} thread(s) each")
    with _display(jobs, resolved["run.steps"], out.quiet) as changed:
        pool.run(changed)
    _report(jobs, given)
    if pool.signal is not None:
        out.note("the same command, started again, goes on with what is missing")
        return EXIT_CODES[pool.signal]
    return next((job.exit_code for job in jobs if job.exit_code), 0)


def _threads(asked: int, n_jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(asked, cores // n_jobs))


def _words(argv: Sequence[str], group: str, name: str) -> list[str]:
    """Return the words of a command without the flags that the pool gives itself."""
    words, kept, skip = list(argv), [], False
    for word in words:
        flag, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif flag in OWN:
            skip = not equals
        elif word not in ("--json", "--print-path", "-q", "--quiet"):
            kept.append(word)
    return kept if kept[:1] == [group] else [group, name, *kept]


def _main(argv: list[str]) -> int:
    """Run one command in a process of the pool."""
    from .main import main

    return main(argv)


def _report(jobs: list[Job], given: dict[str, Any]) -> None:
    """Show each run's figures and what they come to together."""
    out = current()
    for job in jobs:
        said = job.document.get("warnings")
        for text in said if isinstance(said, list) else ():
            out.warn(f"seed {job.seed}: {text}")
        if job.exit_code:
            tell = out.failure if out.quiet and not out.json else out.warn  # --quiet leaves errors
            tell(f"seed {job.seed} ended with exit code {job.exit_code}: {_why(job)}")
    if given["print_path"] and not out.json:
        for job in jobs:
            best = job.path / "checkpoints" / "best.pt"
            if best.is_file():
                out.line(shortest(best))
        return
    from ..runs.reading import label_of

    label = label_of if out.on_terminal and not out.json else shortest  # the folder does not fit into a line
    rows = [[j.seed, j.status, j.step, j.eval_return_mean, j.result.get("return_mean"), label(j.path)] for j in jobs]
    out.table(["seed", "status", "step", "eval_return_mean", "best_return_mean", "run"], rows, name="runs",
              optional=("step", "best_return_mean"))  # fmt: skip
    scores = [j.eval_return_mean for j in jobs if j.status == "finished" and j.eval_return_mean is not None]
    if len(scores) > 1:
        _summarise(scores)
        folder = jobs[0].path.parent
        out.note(f"curves: {shlex.join(['rlox', 'runs', 'plot', shortest(folder)])}")


def _summarise(scores: list[float]) -> None:
    """Show what the last evaluations come to over the runs, as ``rlox runs compare`` does."""
    from ..runs.aggregate import LEVEL, summarize

    out, found = current(), summarize([scores])
    figures = {"metric": "eval/return_mean", "n_runs": found.n, "mean": found.mean, "std": found.std, "iqm": found.iqm,
               "iqm_low": found.low, "iqm_high": found.high, "level": LEVEL}  # fmt: skip
    if out.json:
        out.data(summary=figures)
    else:
        out.line("")
        out.record(figures)


def _why(job: Job) -> str:
    error = job.document.get("error")
    if isinstance(error, dict):
        return str(error.get("message"))
    return f"see `rlox runs show {shortest(job.path)}`"


@contextmanager
def _display(jobs: list[Job], steps: int, quiet: bool) -> Iterator[Callable[[Job | None], None]]:
    """Show the runs as one live table on a terminal, as a line per change elsewhere; yield what the pool calls."""
    from ..logging.terminal import can_animate, make_console

    console = make_console()
    if quiet or not can_animate(console):
        yield (lambda job: None) if quiet else _say(steps)
        return
    from rich.live import Live

    with Live(_table(jobs, steps), console=console, auto_refresh=False) as live:

        def changed(job: Job | None) -> None:
            live.update(_table(jobs, steps), refresh=True)

        yield changed


def _say(steps: int) -> Callable[[Job | None], None]:
    def changed(job: Job | None) -> None:
        if job is not None:
            mean = "" if job.eval_return_mean is None else f" eval_return={job.eval_return_mean:.1f}"
            current().note(f"seed={job.seed} status={job.status} step={job.step}/{steps}{mean}")

    return changed


def _table(jobs: list[Job], steps: int) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, side in (("seed", "right"), ("status", "left"), ("step", "right"), ("%", "right"), ("return", "right"),
                       ("evaluation", "right")):  # fmt: skip
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for job in jobs:
        share = f"{100 * min(job.step / steps, 1):.0f}"
        figures = ("" if v is None else f"{v:.1f}" for v in (job.return_mean, job.eval_return_mean))
        table.add_row(str(job.seed), job.status, str(job.step), share, *figures)
    return table
