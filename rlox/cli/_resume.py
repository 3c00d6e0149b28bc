"""``--resume``, ``--fork``, ``--init-from``: which run is meant, with which values it goes on, and what it came to."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from ..config.resolve import Resolved, Schema, resolve
from ..errors import CheckpointMismatchError, ConfigError, NotFoundError, printable
from ..files import shortest
from ..registry import Kind
from ._completion import runs_dir
from ._output import current

if TYPE_CHECKING:
    from ..runs import Target
    from ..runs.past import Past


def algorithm_of(group: str, kind: Kind, args: list[str]) -> str:
    """Return the algorithm of the run that ``--resume`` names, for a command that does not name one."""
    from ..runs.commands import group_of
    from ..runs.past import find_past

    run = _given(args, "--resume")
    if run == "auto":
        run = _given(args, "--run-dir")
    if run is None:
        raise ConfigError("--resume needs a run", hint=f"`rlox {group} --resume RUN`, or `--resume latest`",
                          param="--resume")  # fmt: skip
    past = find_past(run, runs_dir(_given(args, "--runs-dir")), kind)
    if past.algorithm is None:
        raise NotFoundError(f"nothing to resume in {printable(run)}: it does not say its algorithm",
                            param="--resume", value=run)  # fmt: skip
    if ":" in past.algorithm:  # code of the user's own is run when it is typed, never because a file names it
        again = shlex.join(["rlox", group, past.algorithm, *args])
        raise CheckpointMismatchError(f"the run's algorithm {printable(past.algorithm)} is the user's own, which must be named again",
                                      hint=f"`{printable(again)}`", value=run)  # fmt: skip
    if past.meta.get("kind") != kind:
        other = group_of(past.meta.get("kind"))
        raise CheckpointMismatchError(f"{printable(run)} is a run of rlox {other}", value=run,
                                      hint=f"`{printable(shlex.join(['rlox', other, *args]))}`")  # fmt: skip
    return past.algorithm


def past_of(target: Target, given: dict[str, Any]) -> Past | None:
    """Return the run that ``--resume`` means, None for a new one."""
    from ..runs.commands import group_of
    from ..runs.left import check_not_lost
    from ..runs.past import find_past

    text, run_dir = given["resume"], given["run_dir"]
    if given["fork"] and text in (None, "auto"):
        raise ConfigError("--fork needs the run to start from", hint="give `--resume RUN`", param="--fork")
    if given["init_from"] is not None and text not in (None, "auto"):
        raise ConfigError("--init-from starts a new run, --resume goes on with one", param="--init-from")
    if text is None:
        return None
    if text == "auto":
        if run_dir is None:
            raise ConfigError("--resume auto needs a run directory", hint="give `--run-dir DIR`", param="--run-dir")
        if not os.path.lexists(run_dir):
            return None
        text = run_dir
    elif run_dir is not None and not given["fork"]:
        raise ConfigError("--run-dir cannot be given with --resume RUN, which names the folder", param="--run-dir")
    past = find_past(text, runs_dir(given["runs_dir"]), target.kind, target.name)
    recorded = past.algorithm
    if recorded is not None and recorded != target.name and recorded.rpartition(":")[2] != target.name.rpartition(":")[2]:
        raise CheckpointMismatchError(
            f"{shortest(past.path)} is a run of {printable(recorded)}, not of {target.name}", value=text,
            hint=f"`{printable(shlex.join(['rlox', group_of(past.meta.get('kind')), recorded, '--resume', text]))}`",
        )  # fmt: skip
    if given["resume"] != "auto" and not past.has_generation:
        check_not_lost(past.path)
        raise NotFoundError(f"nothing to resume in {shortest(past.path)}: it has no checkpoint to go on from",
                            param="--resume", value=text, hint="start it again, without `--resume`")  # fmt: skip
    return past


def resolved_with(
    target: Target, schema: Schema, given: dict[str, Any], flags: dict[str, Any], past: Past | None
) -> tuple[Resolved, dict[str, Any]]:
    """Return every value, and the sources that they came from: with ``--resume RUN`` the run's own and what was typed."""
    from ..runs.commands import resume_words

    sources: dict[str, Any] = {"preset": given["preset"] or "auto", "config_files": given["config"], "flags": flags,
                               "sets": given["set"]}  # fmt: skip
    if past is not None and given["resume"] != "auto":
        if given["preset"] not in (None, "auto"):
            raise ConfigError("--preset cannot be given with --resume: the run has its values", param="--preset")
        env = past.recorded_env()
        if env is not None and flags.get("run.env") is None:
            words = resume_words(target.kind, target.name, given["resume"], given["import_"], env)
            raise CheckpointMismatchError(
                f"the run's environment {printable(env)} is the user's own, which must be named again",
                hint=f"`{printable(shlex.join(words))}`", param="--env", value=env,
            )  # fmt: skip
        sources |= {"preset": "none", "config_files": [str(past.config), *given["config"]]}
    return resolve(schema, **sources), sources


def report_over(past: Past, path_only: bool) -> int:
    """Say that a run has nothing left to do, and show what it came to."""
    out = current()
    best = past.path / "checkpoints" / "best.pt"
    hidden = ("status", "exit_code", "time")
    ended = past.status.get("stopped_by")
    out.note(f"{shortest(past.path)} is finished at step {past.status.get('step')}"
             + (f", stopped by {printable(ended)}" if ended else "; `--steps` extends it"))  # fmt: skip
    if path_only and not out.json:
        out.line(shortest(best))
    else:
        shown = {**past.status, **{name: shortest(past.path / "checkpoints" / f"{name}.pt") for name in ("best", "last")}}
        out.record({k: v for k, v in shown.items() if k not in hidden})
    return 0


def _given(args: list[str], flag: str) -> str | None:
    """Return the value of a flag among words that nobody has parsed yet."""
    for i, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else args[i + 1] if i + 1 < len(args) else None
    return None
