"""``rlox train`` and ``rlox offline``: one command per algorithm, made from the options of its config."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from ..config.fields import Option
from ..config.preset import NAMES as PRESETS
from ..config.preset import preset_subjects
from ..config.resolve import Resolved, Schema, resolve, shown
from ..errors import CheckpointMismatchError, ConfigError, NotFoundError, printable
from ..files import shortest
from ..registry import Kind, algorithm_names, get_algorithm
from ._commands import Command, Group
from ._completion import ENV_IDS
from ._options import Flag, flag
from ._output import current
from ._policy import import_packages
from ._seeds import count, run_seeds, seeds_flags

if TYPE_CHECKING:
    from ..runs import Launch, Outcome, Plan, Target
    from ..runs.past import Past

PANELS = {"run": "Run", "algo": "Algorithm", "eval": "Evaluation", "checkpoint": "Checkpoint", "log": "Logging",
          "hardware": "Hardware"}  # fmt: skip
PANEL_ORDER = ("run", "eval", "checkpoint", "log", "hardware", "algo")
CODES = (0, 2, 3, 4, 5, 6, 7, 8, 129, 130, 143)
DEVICES = ("auto", "cpu", "cuda")


class AlgorithmGroup(Group):
    """The algorithms of one kind; a hyphen stands for an underscore. ``--resume RUN`` alone names the run's algorithm."""

    def __init__(self, kind: Kind, **attrs: Any) -> None:
        self.kind = kind
        summaries = {name: get_algorithm(name).summary for name in algorithm_names(kind)}
        commands = {
            name: (summary, lambda name=name: algorithm_command(name, kind)) for name, summary in summaries.items()
        }
        lister = Flag("list", "--list", help="List the algorithms and what they have presets for, and exit", switch=True,
                      expose=False, callback=self._list)  # fmt: skip
        super().__init__(
            "train" if kind == "online" else "offline", commands, noun="algorithm", params=[lister], **attrs
        )

    def find(self, ctx: Any, name: str) -> Any:
        """Return the command of an algorithm."""
        return super().find(ctx, name.replace("-", "_") if ":" not in name else name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the algorithm of the run before the options, where ``--resume`` stands first."""
        if args and args[0].partition("=")[0] == "--resume" and not ctx.resilient_parsing:
            args = [self._algorithm_of(args), *args]
        return super().parse_args(ctx, args)

    def _algorithm_of(self, args: list[str]) -> str:
        from ..runs.past import find_past

        run = _given(args, "--resume")
        if run == "auto":
            run = _given(args, "--run-dir")
        if run is None:
            raise ConfigError("--resume needs a run", hint=f"`rlox {self.name} --resume RUN`, or `--resume latest`",
                              param="--resume")  # fmt: skip
        past = find_past(run, _given(args, "--runs-dir") or os.environ.get("RLOX_RUNS_DIR") or "runs", self.kind)
        if past.algorithm is None:
            raise NotFoundError(f"nothing to resume in {printable(run)}: it does not say its algorithm",
                                param="--resume", value=run)  # fmt: skip
        if ":" in past.algorithm:  # code of the user's own is run when it is typed, never because a file names it
            again = shlex.join(["rlox", self.name or "", past.algorithm, *args])
            raise CheckpointMismatchError(f"the run's algorithm {printable(past.algorithm)} is the user's own, which must be named again",
                                          hint=f"`{printable(again)}`", value=run)  # fmt: skip
        if past.meta.get("kind") != self.kind:
            other = "offline" if self.kind == "online" else "train"
            raise CheckpointMismatchError(f"{printable(run)} is a run of rlox {other}", value=run,
                                          hint=f"`{printable(shlex.join(['rlox', other, *args]))}`")  # fmt: skip
        return past.algorithm

    def _list(self, ctx: Any, param: Any, value: bool | None) -> None:
        if not value or ctx.resilient_parsing:
            return
        out = current()
        out.schema = f"rlox.{self.name}.list/1"
        specs = [get_algorithm(name) for name in algorithm_names(self.kind)]
        rows = [(s.name, s.summary, preset_subjects(s.name, s.load_config())) for s in specs]
        if not out.json:
            rows = [(name, summary, " ".join(presets)) for name, summary, presets in rows]  # type: ignore[misc]
        out.table(["algorithm", "summary", "presets"], rows, name="algorithms")
        raise typer.Exit(0)


def algorithm_command(name: str, kind: Kind) -> Command:
    """Return the command of a registered algorithm."""
    from ..runs import Target

    spec = get_algorithm(name, kind)
    return train_command(Target.of(spec), spec.summary, registered=True)


def train_command(target: Target, summary: str, *, registered: bool) -> Command:
    """Return the command that trains ``target``: its flags are the options of its config and of a run."""
    schema = Schema(target.kind, target.config, target.name if registered else None)
    params = [*_ordered(schema), *_launch_flags(target.kind)]
    _check_spellings(params, target.name)
    params.sort(key=lambda p: p.rich_help_panel != "Run")  # the flags of the launch stand with those of the run

    def run(**given: Any) -> int:
        return _run(target, schema, given)

    group = "train" if target.kind == "online" else "offline"
    return Command(target.name, help=f"{summary}\n\n{_examples(group, target.name)}", short_help=summary, callback=run,
                   params=params, codes=CODES, schema=f"rlox.{group}/1")  # fmt: skip


def _run(target: Target, schema: Schema, given: dict[str, Any]) -> int:
    """Resolve what was typed, then show it (``--dry-run``) or train."""
    from ..runs import make_plan, train

    out = current()
    flags = {o.key: _typed(o, given[o.name]) for o in schema.options.values()}
    if given["toml"] and not given["dry_run"]:
        raise ConfigError("--toml needs --dry-run", param="--toml")
    n_seeds, n_jobs = count(given["seeds"], "--seeds", 10_000), count(given["jobs"], "--jobs", 1024)
    if given["jobs"] is not None and given["seeds"] is None:
        raise ConfigError("--jobs needs --seeds", hint="e.g. `--seeds 5 --jobs 2`", param="--jobs")
    past = None if given["seeds"] is not None else _past(target, given)
    resolved, sources = _resolved(target, schema, given, flags, past)
    import_packages(given["import_"])
    resolved = _with_version(schema, resolved, sources)
    for text in resolved.warnings:
        out.warn(text)
    goes_on = past is not None and not given["fork"]
    if past is not None and goes_on and past.meta:
        past.check_same(resolved)
    if given["dry_run"]:
        plan = make_plan(target, resolved)
        for text in plan.notes:
            out.note(text)
        _show(plan, toml=bool(given["toml"]))
        return 0
    if past is not None and goes_on and past.is_over(resolved["run.steps"]):
        return _report_over(past, path_only=bool(given["print_path"]))
    if n_seeds > 1 or given["seeds"] is not None:
        return run_seeds(target.kind, make_plan(target, resolved), given, n_seeds, n_jobs, _runs_dir(given))
    outcome = train(target, resolved, _launch(given, past))
    _report(outcome, path_only=bool(given["print_path"]))
    return outcome.exit_code


def _past(target: Target, given: dict[str, Any]) -> Past | None:
    """Return the run that ``--resume`` means, None for a new one."""
    from ..runs.past import find_past

    text, run_dir = given["resume"], given["run_dir"]
    for name in ("fork", "init_from"):
        if name == "fork" and given["fork"] and text in (None, "auto"):
            raise ConfigError("--fork needs the run to start from", hint="give `--resume RUN`", param="--fork")
        if name == "init_from" and given["init_from"] is not None and text is not None:
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
    past = find_past(text, _runs_dir(given), target.kind, target.name)
    recorded = past.algorithm
    if recorded is not None and recorded != target.name and recorded.rpartition(":")[2] != target.name.rpartition(":")[2]:
        raise CheckpointMismatchError(
            f"{shortest(past.path)} is a run of {printable(recorded)}, not of {target.name}", value=text,
            hint=f"`rlox {'train' if target.kind == 'online' else 'offline'} {printable(recorded)} --resume {printable(text)}`",
        )  # fmt: skip
    if given["resume"] != "auto" and not past.has_generation:
        raise NotFoundError(f"nothing to resume in {shortest(past.path)}: it has no checkpoint to go on from",
                            param="--resume", value=text, hint="start it again, without `--resume`")  # fmt: skip
    return past


def _resolved(
    target: Target, schema: Schema, given: dict[str, Any], flags: dict[str, Any], past: Past | None
) -> tuple[Resolved, dict[str, Any]]:
    """Return every value, and the sources that they came from: with ``--resume RUN`` the run's own and what was typed."""
    sources: dict[str, Any] = {"preset": given["preset"] or "auto", "config_files": given["config"], "flags": flags,
                               "sets": given["set"]}  # fmt: skip
    if past is not None and given["resume"] != "auto":
        if given["preset"] not in (None, "auto"):
            raise ConfigError("--preset cannot be given with --resume: the run has its values", param="--preset")
        env = past.recorded_env()
        if env is not None and flags.get("run.env") is None:
            group = "train" if target.kind == "online" else "offline"
            words = ["rlox", group, target.name, "--resume", given["resume"], "--env", env]
            raise CheckpointMismatchError(
                f"the run's environment {printable(env)} is the user's own, which must be named again",
                hint=f"`{printable(shlex.join(words))}`", param="--env", value=env,
            )  # fmt: skip
        sources |= {"preset": "none", "config_files": [str(past.config), *given["config"]]}
    return resolve(schema, **sources), sources


def _report_over(past: Past, path_only: bool) -> int:
    """Say that a run has nothing left to do, and show what it came to."""
    out = current()
    best = past.path / "checkpoints" / "best.pt"
    hidden = ("status", "exit_code", "time", "reason")
    ended = past.status.get("stopped_by")
    out.note(f"{shortest(past.path)} is finished at step {past.status.get('step')}"
             + (f", stopped by {printable(ended)}" if ended else "; `--steps` extends it"))  # fmt: skip
    if path_only and not out.json:
        out.line(shortest(best))
    else:
        shown = {**past.status, **{name: shortest(past.path / "checkpoints" / f"{name}.pt") for name in ("best", "last")}}
        out.record({k: v for k, v in shown.items() if k not in hidden})
    return 0


def _with_version(schema: Schema, resolved: Resolved, sources: dict[str, Any]) -> Resolved:
    """Resolve again with the preset of the latest version, where an environment was named without one."""
    env = resolved["run.env"]
    if schema.kind == "offline" or ":" in env or env.rpartition("-v")[2].isdigit() or sources["preset"] != "auto":
        return resolved
    import warnings

    from ..envs import EnvSource

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said when the run makes its environment
        subject = EnvSource.of(env).id
    return resolve(schema, **sources, subject=subject)


def _runs_dir(given: dict[str, Any]) -> str:
    return given["runs_dir"] or os.environ.get("RLOX_RUNS_DIR") or "runs"


def _given(args: list[str], flag: str) -> str | None:
    """Return the value of a flag among words that nobody has parsed yet."""
    for i, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else args[i + 1] if i + 1 < len(args) else None
    return None


def _launch(given: dict[str, Any], past: Past | None) -> Launch:
    from ..runs import Launch

    out = current()

    def started(run: Any, fields: dict[str, str]) -> None:
        out.run = run.path
        out.note("  ".join(f"{name}: {value}" for name, value in fields.items()))

    return Launch(
        runs_dir=_runs_dir(given),
        run_dir=given["run_dir"],
        resume=None if given["fork"] else past,
        fork=past if given["fork"] else None,
        init_from=given["init_from"],
        name=given["name"],
        tags=given["tag"],
        argv=out.argv,
        imports=given["import_"],
        quiet=out.quiet,
        color=out.color,
        started=started,
        note=out.note,
    )


def _report(outcome: Outcome, path_only: bool) -> None:
    """Show what a run came to: figures on stdout, the next command on stderr."""
    out = current()
    best = outcome.best
    if path_only and not out.json:
        if best is not None:
            out.line(shortest(best))
    else:
        names = {"return_mean": "best_return_mean", "return_std": "best_return_std"} if out.on_terminal else {}
        out.record(outcome.result if out.json else {names.get(k, k): v for k, v in outcome.result.items()})
    if outcome.eval_command is not None:
        out.note(f"evaluate it: {outcome.eval_command}")


def _show(plan: Plan, toml: bool) -> None:
    """Write what a run would use, and write nothing else."""
    out, resolved = current(), plan.resolved
    if toml:
        text = resolved.to_toml()
        out.data(toml=text)
        for line in text.splitlines():
            out.line(line)
    else:
        rows = [_as_run(plan, *row) for row in resolved.rows()]
        rows = rows if out.json else [(key, shown(value), origin) for key, value, origin in rows]
        out.table(["key", "value", "origin"], rows)
    out.data(device=plan.device, threads=plan.threads, preset=resolved.preset, memory_bytes=plan.memory)
    out.note("would run with  " + "  ".join(f"{name}: {value}" for name, value in plan.summary().items()))


def _as_run(plan: Plan, key: str, value: Any, origin: str) -> tuple[str, Any, str]:
    """Return a row with the environment that is meant."""
    if key == "run.env" and plan.source is not None and value != plan.source.text:
        return key, plan.source.text, origin if value is not None else "dataset"
    return key, value, origin


def _ordered(schema: Schema) -> list[Flag]:
    """Return the flags of all options, panel by panel."""
    by_section = [[o for o in schema.options.values() if o.section == section] for section in PANEL_ORDER]
    algo = by_section[-1]
    algo.sort(key=lambda o: bool(o.panel))  # what is special to the algorithm before its networks
    return [_flag(o) for options in by_section for o in options]


def _flag(o: Option) -> Flag:
    """Return the flag of an option, under its panel; a choice of auto, on and off is a switch with two sides."""
    panel = o.panel or PANELS[o.section]
    if o.choices == ("auto", "on", "off"):
        return Flag(o.name, f"{o.flag}/--no-{o.flag[2:]}", help=o.help, switch=True, panel=panel)
    completions = {"env": ENV_IDS, "device": DEVICES}.get(o.name)
    return flag(replace(o, panel=panel), (lambda text: completions) if completions else None)


def _typed(o: Option, value: Any) -> Any:
    """Return what was typed for an option, None where nothing was."""
    if o.choices == ("auto", "on", "off") and value is not None:
        return "on" if value else "off"
    return None if value == () else value


def _launch_flags(kind: Kind) -> list[Flag]:
    """Return the flags that are no option of the run: where values come from, where it goes, what is shown."""

    def one(*names: str, help: str, **attrs: Any) -> Flag:
        return Flag(*names, help=help, panel="Run", **attrs)

    subject = "environment" if kind == "online" else "dataset"
    return [
        one("preset", "--preset", help=f"auto (the {subject}'s own, if there is one), none, smoke (seconds) or a TOML file",
            default="auto", metavar="NAME", completion=lambda text: PRESETS),
        one("config", "--config", help="TOML file of values; repeatable, later files win", metavar="FILE", multiple=True),
        one("set", "--set", help="Value of any key, over every other source; repeatable", metavar="K=V", multiple=True),
        one("runs_dir", "--runs-dir", help="Folder of all runs; also RLOX_RUNS_DIR", default="runs", metavar="DIR"),
        one("run_dir", "--run-dir", help="Exact folder of this run; must be new, unless --resume auto", metavar="DIR"),
        one("resume", "--resume", help="Go on with a run: its folder, latest, or auto (that of --run-dir, new if there "
            "is none)", metavar="RUN"),
        one("fork", "--fork", help="With --resume: start a new run from that one, with what is changed", switch=True),
        one("init_from", "--init-from", help="Start a new run from the weights of a checkpoint", metavar="CKPT"),
        *seeds_flags("Run"),
        one("name", "--name", help="Name of the run, kept in its folder's name", metavar="NAME"),
        one("tag", "--tag", help="Tag of the run; repeatable", metavar="TAG", multiple=True),
        one("import_", "--import", help="Import a package that registers environments; repeatable", metavar="PKG",
            multiple=True),
        one("print_path", "--print-path", help="Write the path of best.pt to stdout, and nothing else", switch=True),
        one("dry_run", "--dry-run", help="Check everything, show every value with its origin, write nothing", switch=True),
        one("toml", "--toml", help="With --dry-run: as a file that --config accepts", switch=True),
    ]  # fmt: skip


def _check_spellings(params: Iterable[Flag], name: str) -> None:
    """Refuse a config whose options take a spelling that is taken."""
    seen: set[str] = set()
    for param in params:
        for spelling in (*param.opts, *param.secondary_opts, str(param.name)):
            if spelling in seen:
                raise ConfigError(f"{name} has an option {spelling}, which rlox train has already")
            seen.add(spelling)


def _examples(group: str, name: str) -> str:
    subject = "--env Pendulum-v1" if group == "train" else "--dataset data.h5"
    steps = "--steps 50000 --seed 1" if group == "train" else "--env Pendulum-v1 --steps 20000"
    short = "" if group == "train" else " --steps 20000"
    return "\n".join(
        (
            "Examples:",
            f"  rlox {group} {name} {subject}{short}",
            f"  rlox {group} {name} {subject} {steps}",
            f"  rlox {group} {name} {subject} --preset smoke --dry-run",
        )
    )
