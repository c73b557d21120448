"""The house: what may import what, and how long things may get. The floors are those of CONTRIBUTING.md's map."""

import ast
import re
import tokenize
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "rdrop_paddle"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
DOMAINS = ("vision", "text")
# a module imports from its own floor and those below; tasks.py lies on the ground but stands above the domains
FLOORS = (("durability",), ("weights",), ("training",), ("reporting",), DOMAINS)
TOP = "tasks"
LONGEST_MODULE, LONGEST_FUNCTION = 300, 60
OF_VISION = re.compile(r"accuracy|images|correct(?!ion)")


def dotted(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path):
    """The modules of the package that a file imports, anywhere in it, as dotted names below the package."""
    names, known = set(), {dotted(module) for module in MODULES}
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("rdrop_paddle.") for name in names} & known


def floor(module):
    wing, _, rest = module.partition(".")
    if not rest:
        return len(FLOORS) if module == TOP else -1
    return next(number for number, wings in enumerate(FLOORS) if wing in wings)


IMPORTS = {dotted(path): imported(path) for path in MODULES}


@pytest.mark.parametrize("module", IMPORTS)
def test_imports_run_downwards(module):
    for other in IMPORTS[module]:
        assert floor(other) <= floor(module), f"{module} imports {other}"


def test_imports_have_no_circle():
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        if module not in done:
            path.append(module)
            for other in sorted(IMPORTS[module]):
                visit(other)
            path.pop()
            done.add(module)

    for module in IMPORTS:
        visit(module)
    assert len(done) > 40 and sum(map(len, IMPORTS.values())) > 80  # they were found


def test_only_tasks_knows_the_domains():
    for module, others in IMPORTS.items():
        wing = module.partition(".")[0]
        for other in others:
            if other.partition(".")[0] in DOMAINS and module != TOP:
                assert wing == other.partition(".")[0], f"{module} imports {other}"
    for path in [*ROOT.glob("examples/*.py"), ROOT / "hubconf.py"]:
        assert not {other for other in imported(path) if other.partition(".")[0] in DOMAINS}, path.name


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name not in DOMAINS], ids=dotted)
def test_what_all_tasks_share_speaks_of_no_ones_scores(path):
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            said = token.type == tokenize.NAME or (token.type == tokenize.STRING and not token.string.startswith('"""'))
            assert not (said and OF_VISION.search(token.string)), f"{path.name}, line {token.start[0]}: {token.string}"


@pytest.mark.parametrize(
    "path", [*MODULES, *(p for folder in ("tools", "benchmarks", "examples") for p in sorted(ROOT.glob(f"{folder}/*.py")))],
    ids=lambda path: str(path.relative_to(ROOT)),
)  # fmt: skip
def test_modules_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, node.name


def test_folders_of_tests_are_those_of_the_package():
    for path in Path(ROOT / "tests").glob("*/test_*.py"):
        assert (PACKAGE / path.parent.name).is_dir(), path
