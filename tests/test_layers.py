"""Imports go downwards only, light layers stay light, and nothing in the package can run what a file says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rlox

PACKAGE = Path(rlox.__file__).parent
ORDER = [
    {"errors"},
    {"seeding", "files", "registry", "signals"},
    {"user_code"},
    {"config"},
    {"_ext"},
    {"protocols"},
    {"buffers", "envs"},
    {"data"},
    {"networks"},
    {"evaluation"},
    {"checkpoint"},
    {"logging"},
    {"callbacks"},
    {"learner"},
    {"loop"},
    {"policy", "resume"},
    {"algorithm"},
    {"online", "offline"},
    {"algorithms"},
    {"runs"},
    {"cli"},
]
RANK = {name: i for i, names in enumerate(ORDER) for name in names}
NO_TORCH = {"data", "buffers", "envs", "config", "errors", "files", "seeding", "registry", "protocols", "_ext"}
HEAVY = {"torch", "gymnasium", "h5py", "numpy"}
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def absolute(path: Path, node: ast.ImportFrom) -> str:
    """The full name of what a ``from`` imports from."""
    if not node.level:
        return node.module or ""
    package = ["rlox", *path.relative_to(PACKAGE).parts[:-1]]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def type_checking_only(tree: ast.AST) -> set[ast.AST]:
    """Every node below ``if TYPE_CHECKING:``."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            found.update(child for part in node.body for child in ast.walk(part))
    return found


def imports(path: Path, *, top_level: bool = False) -> list[tuple[int, str]]:
    """Return (line, module) of the imports that happen when the code runs; only of those at import time if asked."""
    tree = ast.parse(path.read_text())
    skipped = type_checking_only(tree)
    if top_level:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                skipped.update(child for child in ast.walk(node) if child is not node)
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def test_every_module_has_a_layer():
    known = RANK.keys() | {"__init__", "__main__"}
    assert {layer_of(path) for path in MODULES} <= known
    assert len(MODULES) > 60


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer_of(p) in RANK], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_downwards_only(path):
    own = layer_of(path)
    upwards = []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "rlox" or len(parts) < 2 or parts[1] not in RANK:
            continue
        if parts[1] != own and RANK[parts[1]] >= RANK[own]:
            upwards.append(f"line {line}: {own} imports {name}")
    assert not upwards


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer_of(p) in NO_TORCH], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_light_layers_import_no_torch(path):
    assert [name for _, name in imports(path, top_level=True) if name.split(".")[0] == "torch"] == []


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if layer_of(p) in ("cli", "config", "errors", "registry", "__init__", "__main__")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_commands_and_configs_import_nothing_heavy(path):
    assert [name for _, name in imports(path, top_level=True) if name.split(".")[0] in HEAVY] == []


def test_the_parsing_finds_imports_in_functions_but_not_those_for_types():
    source = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from .c import d\nclass X:\n    import e\n"
    path = PACKAGE / "loop.py"

    class Source(type(path)):
        def read_text(self, *args, **kwargs):
            return source

    fake = Source(path)
    assert sorted(name for _, name in imports(fake)) == ["a", "e", "rlox.c.d"]
    assert [name for _, name in imports(fake, top_level=True)] == ["a", "e"]


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_can_be_run_from_a_file(path):
    wrong = [f"line {line}: {name}" for line, name in imports(path) if name.split(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in FORBIDDEN_CALLS:
            wrong.append(f"line {node.lineno}: {called}")
        options = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
        if options.get("shell", "False") != "False" or options.get("allow_pickle", "False") != "False":
            wrong.append(f"line {node.lineno}: {called} with {options}")
        if called == "torch.load" and options.get("weights_only") != "True":
            wrong.append(f"line {node.lineno}: torch.load without weights_only=True")
    assert not wrong


GLOBAL_RANDOM = ("np.random.seed", "np.random.rand", "np.random.randn", "np.random.randint", "np.random.choice",
                 "np.random.shuffle", "random.random", "random.seed", "random.randint", "torch.manual_seed",
                 "torch.seed", "torch.cuda.manual_seed")  # fmt: skip


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_draws_from_or_seeds_global_random_state(path):
    calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert [c for c in calls if c in GLOBAL_RANDOM] == []
