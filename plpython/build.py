"""Bundles the engine and the SQL files into what a revision installs.

The engine (``plpython/insights_engine``) travels inside the body of one
function, ``insights.load_engine()``, as string constants.  The first call in a
session compiles what it imports and nothing else; the others return at once.  The
engine is known by the hash of its sources, so after an upgrade old sessions load the
new one.

Placeholders in ``sql/**/*.sql``:

``@mlflow@``
    The schema of MLflow's tables as a quoted identifier.  It stays in bundles
    and is filled in at installation.
``@engine@``
    The engine's hash, the key in ``GD`` of its ``api`` module.
``@python:insights_engine/room/module.py@``
    On a line of its own inside a PL/Python body: that module's source, with
    the indentation of the placeholder.

Overloads, shims and lists of columns are written by `declarations`.

Needs nothing but the standard library: packages are built with it, and a checkout runs
it whenever its bundle is asked for (``insights_py/bundles.py``).
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import tokenize
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
if __package__:
    from plpython import declarations
else:
    # Run by its path, maybe in another tree than the one that can be imported.
    declarations = cast(
        Any, SimpleNamespace(**run_path(str(ROOT / "plpython" / "declarations.py")))
    )
BuildError = declarations.BuildError

ENGINE = ROOT / "plpython" / "insights_engine"
SQL = ROOT / "sql"

_PYTHON_LINE = re.compile(r"^([ \t]*)@python:([A-Za-z0-9_/]+\.py)@[ \t]*$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"@(?!mlflow@)[a-z]+(?::[^@\n]*)?@")
_CREATED = re.compile(
    r"^create\s+(?:or\s+replace\s+)?(?:function|procedure|view|type|table|domain|aggregate|sequence)"
    r"\s+(?:if\s+not\s+exists\s+)?(insights|@mlflow@)\.([a-z_0-9]+)",
    re.IGNORECASE | re.MULTILINE,
)
_USED = re.compile(r"(insights|@mlflow@)\.([a-z_0-9]+)")

_LOADER = '''\
create or replace function insights.load_engine() returns void
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $insights_engine$
if "@engine@" in GD:
    return

# PL/Python indents every line of a function's body by one tab, also inside
# strings; text() takes it out again.
def text(source):
    return source.replace("\\n\\t", "\\n")

sources = {
@modules@
}
packages = {name.rpartition(".")[0] for name in sources}

import importlib.abc, importlib.machinery, linecache, sys

class Loader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Compiles a module of the engine when it is first imported."""

    def find_spec(self, name, path=None, target=None):
        if name not in sources:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=self.is_package(name))

    def is_package(self, name):
        return name in packages

    def get_source(self, name):
        return text(sources[name])

    def exec_module(self, module):
        name = module.__name__
        source = self.get_source(name)
        place = "<insights @engine@ " + name + ">"
        linecache.cache[place] = (len(source), None, source.splitlines(True), place)
        exec(compile(source, place, "exec", dont_inherit=True), module.__dict__)

# An engine from before an upgrade makes room: its modules, its finder, its api.
for name in [name for name in sys.modules if name.partition(".")[0] == "insights_engine"]:
    del sys.modules[name]
sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "engine", None) != "insights"]
for key in GD.pop("insights_engines", ()):
    GD.pop(key, None)

loader = Loader()
loader.engine = "insights"
sys.meta_path.insert(0, loader)
import insights_engine.api
GD["@engine@"] = sys.modules["insights_engine.api"]
GD["insights_engines"] = ["@engine@"]
$insights_engine$;

comment on function insights.load_engine() is
    'Loads the filter engine into this session; internal, called by the other functions';

revoke all on function insights.load_engine() from public;
grant execute on function insights.load_engine() to public;
'''


def engine_sources() -> dict[str, str]:
    """Module names of the engine and their sources, in the order of names."""
    sources = {}
    for path in ENGINE.rglob("*.py"):
        parts = path.relative_to(ENGINE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if path.stem == "__init__" else parts)
        sources[name] = without_prose(path.read_text(encoding="utf-8"))
    return dict(sorted(sources.items()))


def without_prose(source: str) -> str:
    """``source`` without comments and docstrings, every statement on the line where it was.

    Sessions read and compile a fifth less, and tracebacks name the lines of the checkout.
    """
    lines = source.split("\n")
    cuts: list[tuple[int, int, int, int, str]] = []
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        )
        if documented and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            begin = len(lines[text.lineno - 1].encode()[: text.col_offset].decode())
            end = len(lines[text.end_lineno - 1].encode()[: text.end_col_offset].decode())
            # Something has to stand there: a body may be nothing but its docstring.
            cuts.append((text.lineno - 1, begin, text.end_lineno - 1, end, '""'))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            cuts.append((row - 1, column, row - 1, token.end[1], ""))
    for first, begin, last, end, instead in sorted(cuts, reverse=True):
        kept = (lines[first][:begin] + instead + lines[last][end:]).rstrip()
        lines[first : last + 1] = [kept] + [""] * (last - first)
    return "\n".join(lines).rstrip("\n") + "\n"


def engine_hash(sources: dict[str, str]) -> str:
    """The name of this version of the engine: 16 hexadecimal digits."""
    digest = hashlib.sha256(_LOADER.encode())
    for name, source in sources.items():
        digest.update(f"\0{name}\0{source}".encode())
    return digest.hexdigest()[:16]


def _literal(name: str, source: str) -> str:
    """``source`` as a Python literal that survives PL/Python's indentation."""
    if "'''" in source or source.endswith("\\") or "\r" in source or "$insights_engine$" in source:
        raise BuildError(f"{name}: three single quotes, a carriage return or the bundle's quote")
    return f"r'''{source}'''"


def loader(sources: dict[str, str]) -> str:
    """The SQL that creates ``insights.load_engine()``."""
    modules = "\n".join(f'"{name}": {_literal(name, text)},' for name, text in sources.items())
    return _LOADER.replace("@engine@", engine_hash(sources)).replace("@modules@", modules)


def _annotations(tree: ast.AST) -> list[ast.expr]:
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
        elif isinstance(node, ast.arg):
            found.append(node.annotation)
    return [annotation for annotation in found if annotation is not None]


def _inline(match: re.Match[str]) -> str:
    """A module's source for use within a function body."""
    indent, name = match.group(1), match.group(2)
    path = ROOT / "plpython" / name
    if not path.is_file():
        raise BuildError(f"@python:{name}@: no such file under plpython/")
    source = path.read_text(encoding="utf-8")
    for annotation in _annotations(ast.parse(source)):
        # Without the __future__ import annotations are evaluated, and Python
        # 3.9 has no | for types.
        if any(
            isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr) for n in ast.walk(annotation)
        ):
            raise BuildError(f"{name}: X | Y in an annotation of an inlined module; use typing")
    lines = [line for line in source.splitlines() if not line.startswith("from __future__ import")]
    return "\n".join(indent + line if line else line for line in lines)


def _resolve(path: Path, engine: str) -> str:
    """The text of an SQL file with all placeholders but ``@mlflow@`` filled in."""
    text = declarations.expand(path, path.read_text(encoding="utf-8"))
    text = _PYTHON_LINE.sub(_inline, text).replace("@engine@", engine)
    unknown = _PLACEHOLDER.search(text)
    if unknown:
        raise BuildError(f"{path.relative_to(ROOT)}: unknown placeholder {unknown.group()}")
    return text.strip() + "\n"


def _ordered(texts: dict[Path, str]) -> list[Path]:
    """Files so that each follows what it uses; ties in the order of names."""
    owner = {name: path for path, text in texts.items() for name in _CREATED.findall(text)}
    graph = TopologicalSorter[Path]()
    for path in sorted(texts):
        code = re.sub(r"--.*", "", texts[path])
        used = {owner[name] for name in _USED.findall(code) if name in owner}
        graph.add(path, *sorted(used - {path}))
    try:
        return list(graph.static_order())
    except CycleError as error:
        cycle = " -> ".join(str(path.relative_to(ROOT)) for path in error.args[1])
        raise BuildError(f"these files use each other: {cycle}") from None


def _files(folder: str, engine: str) -> list[str]:
    texts = {path: _resolve(path, engine) for path in sorted((SQL / folder).glob("*.sql"))}
    return [f"-- {path.relative_to(ROOT)}\n{texts[path]}" for path in _ordered(texts)]


def schema_bundle() -> str:
    """What is created once: types and tables of schema ``insights``."""
    return "\n".join(_files("schema", ""))


def prepare_bundle() -> str:
    """What has to be known before anything is re-created."""
    return "\n".join(_files("prepare", ""))


def function_bundle() -> str:
    """What is re-created at will: the engine, functions, views, triggers, privileges."""
    sources = engine_sources()
    engine = engine_hash(sources)
    parts = [loader(sources)]
    for folder in ("internal", "functions", "views", "triggers", "install"):
        parts += _files(folder, engine)
    return "\n".join(parts)


def bundle() -> dict[str, str]:
    """The files of a bundle and what is in them."""
    return {
        "prepare.sql": prepare_bundle(),
        "schema.sql": schema_bundle(),
        "functions.sql": function_bundle(),
    }


def unreleased(migrations: Path) -> str | None:
    """The revision that is open to changes, if there is one: the last by its file's name."""
    released = json.loads((migrations / "bundles" / "released.json").read_text(encoding="utf-8"))
    revisions = {path.name.partition("_")[0] for path in (migrations / "versions").glob("*.py")}
    left = sorted(revisions - set(released))
    if len(left) > 1:
        raise BuildError(f"more than one revision is not released: {', '.join(left)}")
    return left[0] if left else None


def write_bundle(directory: Path) -> list[Path]:
    """Write the files of the bundle; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in bundle().items():
        (directory / name).write_text(text, encoding="utf-8")
        paths.append(directory / name)
    return paths
