"""The drawing in docs/architecture.md is true: imports flow one way, third-party packages have one home."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "layerfs"

EVERYWHERE = ("_lazy", "_record", "_threads")
BELOW = {  # part -> parts it may import
    "errors": set(),
    "_version": set(),
    **{part: set() for part in EVERYWHERE},
    "digest": {"errors", "native"},
    "reference": {"digest", "errors"},
    "oci": {"digest", "errors"},
    "_pure": {"errors"},
    "native": {"_native", "_pure"},
    "mount": {"errors", "native", "_native"},
    "store": {"digest", "errors", "native", "_native"},
    "layer": {"_pure", "digest", "errors", "native", "oci", "store"},
    "union": {"errors", "layer", "native", "_native"},
    "fuse": {"errors", "layer", "mount", "union"},
    "snapshot": {"_native", "_server", "digest", "errors", "layer", "mount", "store", "union"},
    "image": {"digest", "errors", "layer", "native", "oci", "reference", "store"},
    "registry": {"_version", "digest", "errors", "image", "layer", "oci", "reference", "store"},
    "runtime": {"_native", "errors", "mount"},
    "build": {"digest", "errors", "image", "layer", "oci", "reference", "store"},
    "engine": {
        "_lazy",
        "_native",
        "build",
        "digest",
        "errors",
        "fuse",
        "image",
        "layer",
        "mount",
        "native",
        "oci",
        "reference",
        "registry",
        "runtime",
        "snapshot",
        "store",
        "union",
    },
    "cli": {"_version", "build", "engine", "errors", "image", "native", "reference"},
    "__init__": {"_version", "engine", "errors"},
    "__main__": {"cli"},
}
HOMES = {
    "lmdb": {"store"},
    "xxhash": {"_pure"},
    "zstandard": {"layer"},
    "isal": {"layer"},
    "fuse": {"fuse"},
    "pyseccomp": {"runtime"},
    "click": {"cli"},
    "rich": {"cli"},
    "urllib3": {"registry"},
}


def _part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ([f"layerfs.{a.name}" for a in node.names] if node.module == "layerfs" else [node.module])


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(file: Path) -> None:
    part = _part(file)
    for name in _imports(file):
        head, _, rest = name.partition(".")
        if head == "layerfs" and rest:
            target = rest.split(".")[0]
            assert target in (part, *EVERYWHERE) or target in BELOW[part], f"{part} must not import {target}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_third_party_packages_have_one_home(file: Path) -> None:
    for name in _imports(file):
        head = name.partition(".")[0]
        if head != "layerfs" and head not in sys.stdlib_module_names:
            assert _part(file) in HOMES.get(head, set()), f"{head} has no home in {_part(file)}"


@pytest.mark.parametrize("file", [f for f in FILES if f.name == "__init__.py"], ids=lambda f: str(f.parent.name))
def test_public_names_are_sorted(file: Path) -> None:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            assert names == sorted(names)


RACES = [  # which tests/looking.py is for
    r'Path\(f"/proc/\{[^}]*\}/[^"]*"\)\.(exists|is_\w+)\(',  # raises ProcessLookupError for what ends meanwhile
    r'Path\("/(proc|sys)[^"]*"\)\.(rglob\(|glob\(f?"[^"]*(\*\*|/))',  # FileNotFoundError for a directory that goes
    r'"/proc/self/mountinfo"\)\.read_text\(\)',  # UnicodeDecodeError for what others mount
]


@pytest.mark.parametrize("race", RACES)
def test_what_others_do_meanwhile_is_no_error(race: str) -> None:
    files = [*FILES, *(PACKAGE.parent / "tests").rglob("*.py")]
    assert [str(file) for file in files if re.search(race, file.read_text())] == []


TESTS = sorted((PACKAGE.parent / "tests").rglob("*.py"))
BY_CHANCE = [  # tests that fail by chance; tests/looking.py has what they want
    r"""\("/proc/self/fd"\)""",  # what earlier tests have left may go meanwhile
    r"""\.bind\(\("127\.0\.0\.1", 0\)\)\n(?!\s+\w+\.listen)""",  # a port that somebody else is given meanwhile
    r"eventually\([^\n]*, \(?([1-9]|[1-5]\d)\)\n",  # others compute: an end that is not reached costs nothing
    r"\b(messages|communicate|join|urlopen)\(([^()\n]*timeout=)?([1-9]|[1-5]\d)(\.\d+)?\)",
]


@pytest.mark.parametrize("chance", BY_CHANCE)
def test_tests_leave_nothing_to_chance(chance: str) -> None:
    files = [file for file in TESTS if file.name not in ("looking.py", "test_structure.py")]
    assert [str(file) for file in files if re.search(chance, file.read_text())] == []


def _beside(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """What other threads than the test's do: targets of threads, and methods of handlers of requests."""
    targets = {
        word.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "target" and isinstance(word.value, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("Handler" in ast.unparse(base) for base in node.bases):
            yield from (each for each in node.body if isinstance(each, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef) and node.name in targets:
            yield node


def _calls(statement: ast.AST, *names: str) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
        for node in ast.walk(statement)
    )


def _notes(statement: ast.AST) -> bool:
    """Whether it changes what others may look at."""
    changed = [node.target for node in ast.walk(statement) if isinstance(node, ast.AugAssign)]
    changed += [target for node in ast.walk(statement) if isinstance(node, ast.Assign) for target in node.targets]
    seen = [each for each in changed if isinstance(each, ast.Attribute | ast.Subscript)]
    return any("close_connection" not in ast.unparse(each) for each in seen) or _calls(statement, "append", "add")


def late_notes(text: str) -> list[str]:
    """Statements that note an answer after it was sent: who has got it may look before."""
    found = []
    for function in _beside(ast.parse(text)):
        for block in (getattr(node, "body", None) for node in ast.walk(function)):
            sent = False
            for statement in block if isinstance(block, list) else []:
                if sent and _notes(statement):
                    found.append(ast.unparse(statement))
                is_answer = _calls(statement, "sendall", "send") or "wfile.write" in ast.unparse(statement)
                sent = sent or (isinstance(statement, ast.Expr) and is_answer)
    return found


def test_servers_of_tests_note_what_they_answer_before_they_answer() -> None:
    """Whoever reads the answer looks at the notes next."""
    late = "def serve():\n    one.sendall(b'')\n    answered.append(1)\nThread(target=serve)"
    assert late_notes(late) == ["answered.append(1)"]
    assert {str(file): notes for file in TESTS if (notes := late_notes(file.read_text()))} == {}
