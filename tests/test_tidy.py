"""The house rules that a machine can hold: the law of imports (who may know whom), sizes, and banned words.

Reads the sources as text and syntax; imports nothing of the project. A failure names file, line and rule.
"""

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "protocol", "daemon")
LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# What each part of the project may never import, at any depth of its own code.
FORBIDDEN = {
    "kernels": "trio libp2p multiaddr msgpack socket time transformers intellectd.protocol intellectd.daemon",
    "protocol": "trio libp2p multiaddr torch numpy socket threading time datetime secrets subprocess intellectd.daemon",
    "daemon/sdk": "trio libp2p multiaddr",
    "daemon/trainer": "trio libp2p multiaddr",
    "daemon/cli": "torch trio libp2p multiaddr transformers cryptography",
    "daemon/p2p": "torch transformers",
    "daemon/bulk": "libp2p multiaddr transformers",
}
# Of the kernels, protocol may know what needs no torch.
KERNELS_WITHOUT_TORCH = ("codec", "digest", "fragments", "interface", "layout", "outer", "shards")
# What must not be loaded by importing a module, counting everything that its imports import. `.*`: and those below.
LIGHT = {
    "intellectd": "trio libp2p torch",
    "intellectd.daemon.cli.*": "trio libp2p torch transformers cryptography numpy",
    "intellectd.daemon.doctor.*": "trio libp2p torch numpy",
    "intellectd.daemon.frames": "trio libp2p torch",
    "intellectd.daemon.sdk.*": "trio libp2p",
    "intellectd.daemon.trainer.*": "trio libp2p",
    "intellectd.protocol.*": "trio libp2p torch",
}
LIBP2P_LIVES_IN = "daemon/p2p"
NAMES_THAT_SAY_NOTHING = ("utils", "util", "common", "helpers", "manager", "misc")


@dataclass(frozen=True)
class Source:
    path: Path
    text: str
    tree: ast.Module

    @functools.cached_property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @functools.cached_property
    def imports(self) -> list[tuple[ast.AST, str]]:
        found = [node for node in self.nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
        return [(node, name) for node in found for name in imported(node)]

    @functools.cached_property
    def calls(self) -> list[tuple[ast.Call, str]]:
        called = [node for node in self.nodes if isinstance(node, ast.Call)]
        return [(call, ast.unparse(call.func)) for call in called if isinstance(call.func, ast.Name | ast.Attribute)]

    @property
    def module(self) -> str:
        """The dotted name under which it is imported."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] == ("daemon", "_pkgroot"):
            return "intellectd"
        dotted = ".".join(("intellectd", *parts) if parts[0] in FOLDERS else parts)
        return dotted.removesuffix(".__init__")

    def at(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


@functools.cache
def parsed(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(path, text, ast.parse(text))


@functools.cache
def sources(*folders: str) -> tuple[Source, ...]:
    return tuple(parsed(path) for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")))


def everything() -> tuple[Source, ...]:
    return sources(*FOLDERS) + sources("tests")


def imported(node: ast.AST) -> list[str]:
    """Module names of an import statement: `a.b` of `import a.b`; `a.b` and `a.b.c` of `from a.b import c`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        return [base, *[f"{base}.{alias.name}" for alias in node.names]]
    return []


def imports_at_load(body: list[ast.stmt]) -> Iterator[str]:
    """Only what runs when the module is imported: not inside functions, not for type checkers."""
    for node in body:
        yield from imported(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_at_load(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            for block in ("body", "orelse", "finalbody", "handlers"):
                inner = getattr(node, block, [])
                for part in inner:
                    yield from imports_at_load(part.body if isinstance(part, ast.ExceptHandler) else [part])


def is_or_is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_no_part_imports_what_it_must_not_know(part: str) -> None:
    """SPEC N1: so a machine can read no clock."""
    offences = [
        f"{source.at(node)} imports {name}"
        for source in sources(part)
        for node, name in source.imports
        for banned in FORBIDDEN[part].split()
        if is_or_is_in(name, banned)
    ]
    assert offences == []


def test_the_protocol_knows_only_the_torch_free_kernels() -> None:
    offences = [
        f"{source.at(node)} imports {name}"
        for source in sources("protocol")
        for node, name in source.imports
        if name.startswith("intellectd.kernels.") and name.split(".")[2] not in KERNELS_WITHOUT_TORCH
    ]
    assert offences == []


def test_libp2p_stays_behind_its_adapter() -> None:
    offences = [
        f"{source.at(node)} imports {name}"
        for source in sources("daemon")
        for node, name in source.imports
        if not source.name.startswith(LIBP2P_LIVES_IN) and is_or_is_in(name, "libp2p")
    ]
    assert offences == []


@functools.cache
def load_graph() -> dict[str, list[str]]:
    graph = {source.module: sorted({*imports_at_load(source.tree.body)}) for source in sources(*FOLDERS)}
    for module, names in graph.items():
        parents = [module.rpartition(".")[0]] if "." in module else []
        graph[module] = names + [parent for parent in parents if parent in graph]
    return graph


def loaded_by(module: str) -> dict[str, list[str]]:
    """Everything that importing `module` loads, each with the chain of imports that leads there."""
    graph = load_graph()
    chains = {module: [module]}
    queue = [module]
    while queue:
        current = queue.pop()
        for name in graph.get(current, []):
            if name not in chains:
                chains[name] = [*chains[current], name]
                queue.append(name)
    return chains


@pytest.mark.parametrize("light", sorted(LIGHT))
def test_light_modules_load_nothing_heavy(light: str) -> None:
    root = light.removesuffix(".*")
    modules = [module for module in load_graph() if module == root or (root != light and is_or_is_in(module, root))]
    assert modules
    offences = [
        " → ".join(chain)
        for module in modules
        for name, chain in loaded_by(module).items()
        for banned in LIGHT[light].split()
        if is_or_is_in(name, banned)
    ]
    assert offences == []


def test_imports_are_absolute_and_never_bare() -> None:
    offences = [
        f"{source.at(node)} imports {name}"
        for source in everything()
        for node, name in source.imports
        if name.startswith(".") or name.split(".")[0] in FOLDERS
    ]
    assert offences == []


def test_nobody_uses_asyncio_pickle_or_mocks() -> None:
    offences = [
        f"{source.at(node)} imports {name}"
        for source in everything()
        for node, name in source.imports
        for banned in ("asyncio", "pickle", "cPickle", "dill", "marshal", "shelve", "unittest.mock")
        if is_or_is_in(name, banned)
    ]
    assert offences == []


def test_nobody_executes_text_or_unpickles() -> None:
    offences = [
        f"{source.at(call)} calls {name}"
        for source in everything()
        for call, name in source.calls
        if name in ("eval", "exec", "compile", "__import__", "os.system", "torch.load")
        or any(keyword.arg == "shell" for keyword in call.keywords)
    ]
    assert offences == []


def test_no_test_sleeps_in_real_time() -> None:
    offences = [
        f"{source.at(call)} calls {name}"
        for source in sources("tests")
        for call, name in source.calls
        if name == "time.sleep"
    ]
    assert offences == []


def is_a_set(node: ast.expr) -> bool:
    made = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return made or isinstance(node, ast.Set | ast.SetComp)


def test_sets_are_never_iterated_unsorted() -> None:
    # Their order differs from process to process: peers that iterate one disagree.
    offences = [
        source.at(node.iter)
        for source in sources(*FOLDERS)
        for node in source.nodes
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension) and is_a_set(node.iter)
    ]
    assert offences == []


def test_nothing_is_raised_where_a_group_is_taken_apart() -> None:
    # Before Python 3.11.4 (Debian 12 has 3.11.2) what is raised in `except*` becomes a group.
    offences = [
        source.at(inner)
        for source in everything()
        for node in source.nodes
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
        for inner in ast.walk(handler)
        if isinstance(inner, ast.Raise)
    ]
    assert offences == []


def test_files_and_functions_stay_small() -> None:
    offences = [f"{s.name} has {s.text.count(chr(10))} lines" for s in everything() if s.text.count("\n") > LINES_MAX]
    for source in everything():
        for node in source.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    offences.append(f"{source.at(node)} {node.name} has {lines} lines")
    assert offences == []


def test_every_file_says_what_it_owns() -> None:
    offences = [
        source.name
        for source in everything()
        if source.text.strip() and not (ast.get_docstring(source.tree) or "").strip()
    ]
    assert offences == []


def test_no_file_is_named_after_nothing() -> None:
    assert [source.name for source in everything() if source.path.stem in NAMES_THAT_SAY_NOTHING] == []


def test_every_folder_with_python_is_packaged() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {source.path.parent for source in sources(*FOLDERS)} - {ROOT / "daemon/_pkgroot"}
    packages = {"intellectd"} | {"intellectd." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert sorted(tool["packages"]) == sorted(packages)


def test_every_c_file_is_in_the_source_distribution() -> None:
    # One that is missing there is not noticed: the package installs, with the slow kernels.
    extension = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
    here = [path.relative_to(ROOT).as_posix() for path in (ROOT / "kernels/csrc").iterdir()]
    assert sorted(extension["sources"] + extension["depends"]) == sorted(here)


@functools.cache
def texts() -> tuple[tuple[str, str], ...]:
    """Every text file a clone has, but for this one, which names what it bans."""
    kinds = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".service", ".conf", ".c", ".h", ""}
    tops = (*FOLDERS, "tests", "deploy", ".ci")
    paths = [path for top in tops for path in (ROOT / top).rglob("*")] + [ROOT / "README.md", ROOT / "pyproject.toml"]
    kept = [
        path
        for path in sorted(paths)
        if path.is_file() and path.suffix in kinds and path != Path(__file__) and "__pycache__" not in path.parts
    ]
    return tuple((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in kept)


def test_the_repository_speaks_of_itself_alone() -> None:
    # A clone must make sense anywhere: no path of a builder's machine, nothing outside the repository. What a comment
    # leans on is a rule of SPEC.md, a file that is here, or a publication with name and year.
    elsewhere = re.compile(r"/root/|/home/\w+/|§|\b[Ii]ssue [A-Z]\b")
    offences = [f"{name}: {found[0]}" for name, text in texts() for found in elsewhere.finditer(text)]
    assert offences == []


def test_a_document_that_is_cited_is_here() -> None:
    documents = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("[a-z]*/**/*.md"))]
    offences = [
        f"{name}: {cited}"
        for name, text in texts()
        for cited in re.findall(r"[\w./-]*\w\.md\b", text)
        if not any(f"/{document}".endswith(f"/{cited}") for document in documents)
    ]
    assert offences == []
