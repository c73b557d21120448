"""The package as others install it: what the wheel holds, and its loss with Paddle and numpy alone, far from the checkout."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement

import rdrop_paddle
from rdrop_paddle import errors

PACKAGE = ROOT / "rdrop_paddle"
INSTALLED = {distribution.name.lower() for distribution in importlib.metadata.distributions()}
PADDLE = "paddlepaddle-gpu" if "paddlepaddle-gpu" in INSTALLED else "paddlepaddle"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-index", "--no-build-isolation"]


def call(command, folder, more_paths=()):
    """Run it in `folder` with nothing of this process's paths but `more_paths`; the finished process, with text."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, more_paths))
    return subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def succeed(command, folder, more_paths=()):
    done = call(command, folder, more_paths)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def link_installed(names, folder):
    """Make links in `folder` to what is installed here of the distributions `names` and of all that they require."""
    folder.mkdir(exist_ok=True)
    wanted, seen = list(names), set()
    while wanted:
        distribution = importlib.metadata.distribution(wanted.pop())
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        needed = map(Requirement, distribution.requires or [])
        wanted += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    succeed([*PIP, "wheel", "--no-deps", *OFFLINE, "--wheel-dir", folder, ROOT], folder)
    (path,) = folder.iterdir()
    return path


def new_environment(folder):
    """(Python, folder of its packages) of a virtual environment in which there is numpy alone."""
    succeed([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    return folder / "bin" / "python", link_installed(["numpy"], packages)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """installed(program, with_paddle=True) -> the finished process of a program where the wheel is installed, with numpy."""
    home = tmp_path_factory.mktemp("installed")
    python, _ = new_environment(home / "environment")
    succeed([*PIP, "--python", python, "install", "--no-index", wheel], home)  # fails if more than numpy is required
    # setuptools: Paddle 2 imports it without requiring it
    links = link_installed([PADDLE, *({"setuptools"} & INSTALLED)], home / "links")
    return lambda program, with_paddle=True: call([python, "-c", program], home, [links] if with_paddle else [])


@pytest.fixture(scope="module")
def requirements(wheel):
    """{extra, "" for what is always required: {name: Requirement}} of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = re.findall("^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    found = {}
    for requirement in map(Requirement, lines):
        extra = re.fullmatch('extra == "(.*)"', str(requirement.marker)).group(1) if requirement.marker else ""
        found.setdefault(extra, {})[requirement.name.lower()] = requirement
    return found


def test_the_wheel_holds_the_modules_and_the_default_configs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
        (license,) = [name for name in about if name.endswith("/LICENSE")]
        assert archive.read(license) == (ROOT / "LICENSE").read_bytes()
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE / "configs").rglob("*.yaml")]
    assert names - about == {path.relative_to(ROOT).as_posix() for path in files}
    assert wheel.name == f"rdrop_paddle-{rdrop_paddle.__version__}-py3-none-any.whl"


LOSS = """
import importlib.util, paddle
assert not [name for name in ("omegaconf", "yaml", "tqdm", "sklearn", "pytest") if importlib.util.find_spec(name)]
import rdrop_paddle
from rdrop_paddle import kl_loss
loss = kl_loss(alpha=1.0)(paddle.to_tensor([[0.0, 0.0]]), paddle.to_tensor([[1.0, 0.0]]), paddle.to_tensor([0]))
print(rdrop_paddle.__file__, rdrop_paddle.__version__, f"{loss.item():.6f}")
"""


def test_the_loss_needs_paddle_and_numpy_alone(installed):
    done = installed(LOSS)
    assert done.returncode == 0, done.stderr
    path, version, loss = done.stdout.split()[-3:]
    assert "site-packages" in path and ROOT not in Path(path).parents and version == rdrop_paddle.__version__
    # 1/2 (log 2 + log(1 + 1/e)) + 1/2 (1/2 - 1/(1 + e))
    assert loss == "0.618734"


def test_what_is_missing_is_named_by_its_package_and_paddle_by_its_two_builds(installed):
    def last_line(name, **settings):
        return installed(f"from rdrop_paddle import {name}", **settings).stderr.splitlines()[-1].partition(": ")[2]

    assert last_line("load_config") == "load_config needs pyyaml: pip install 'rdrop-paddle[train]'"
    found = last_line("kl_loss", with_paddle=False)
    (index,) = re.findall(r"--extra-index-url (\S+)", (ROOT / "requirements-gpu.txt").read_text())
    assert found == (
        "kl_loss needs Paddle: pip install paddlepaddle, "
        f"or for NVIDIA GPUs pip install paddlepaddle-gpu --extra-index-url {index}"
    )


def is_whole_repository():
    asked = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    return shutil.which("git") and subprocess.run(asked, capture_output=True, text=True).stdout.strip() == "false"


@pytest.mark.parametrize("source", [["-e", ROOT], [f"git+file://{ROOT}"]], ids=["editable", "git"])
def test_it_installs_from_a_checkout(source, tmp_path):
    if source[0] != "-e" and not is_whole_repository():
        pytest.skip("no git repository, or a shallow one, which cannot be cloned as pip clones: git waits for ever")
    python, packages = new_environment(tmp_path / "environment")
    builder = link_installed(["hatchling", "editables"], tmp_path / "builder")
    succeed([*PIP, "--python", python, "install", *OFFLINE, *source], tmp_path, [builder])
    done = succeed([python, "-c", "import rdrop_paddle; print(rdrop_paddle.__file__)"], tmp_path)
    home = PACKAGE if source[0] == "-e" else packages / "rdrop_paddle"
    assert Path(done.stdout.strip()) == home / "__init__.py"
    assert (home / "configs" / "base" / "common.yaml").exists()


def imported_modules(path):
    """Names of the first level that a file imports, those of this package aside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_every_module_that_is_imported_is_in_the_extra_that_the_message_names(requirements):
    modules = {name for path in PACKAGE.rglob("*.py") for name in imported_modules(path)}
    foreign = modules - sys.stdlib_module_names - {"paddle", "numpy"}
    assert len(foreign) >= 10
    for module in foreign:
        package, extra = errors.PROVIDERS[module]
        assert package.lower() in requirements[extra], module
    listed = {package.lower() for package, _ in errors.PROVIDERS.values()}
    assert listed == {name for extra in ("train", "text", "onnx", "ctranslate2") for name in requirements[extra]}
    assert [*requirements[""]] == ["numpy"]


def pinned(name):
    """{package: versions} of a requirements file by itself."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([\w-]+)==([\w.]+)", line):
            found.setdefault(match.group(1).lower(), []).append(match.group(2))
    return found


def test_what_is_pinned_lies_in_the_packages_ranges(requirements):
    everything = {name: one for group in requirements.values() for name, one in group.items()}
    pins = {path.name: pinned(path.name) for path in ROOT.glob("requirements*.txt")}
    assert len(pins) == 6
    for file, packages in pins.items():
        for name, versions in packages.items():
            if name not in ("paddlepaddle", "paddlepaddle-gpu", "setuptools"):
                assert all(everything[name].specifier.contains(version) for version in versions), (file, name)
    not_used_yet = {"rouge-score"}
    assert requirements["train"].keys() | requirements["text"].keys() - not_used_yet <= pins["requirements.txt"].keys()
    cpu, gpu = ({**pins[f"requirements{kind}.txt"]} for kind in ("", "-gpu"))
    assert cpu.pop("paddlepaddle") == gpu.pop("paddlepaddle-gpu") and cpu == gpu
    for extra in ("onnx", "ctranslate2"):
        assert requirements[extra].keys() == pins[f"requirements-{extra}.txt"].keys()
    assert pins["requirements-dev.txt"].keys() <= requirements["dev"].keys()


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_checkout_that_is_not_installed_is_named_by_its_folder(is_installed, monkeypatch):
    def version(name):
        assert name == "rdrop-paddle"
        if not is_installed:
            raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    text = errors.what_is_missing("this", ModuleNotFoundError(name="paddle2onnx"))
    assert text == f"this needs paddle2onnx: pip install '{'rdrop-paddle' if is_installed else ROOT}[onnx]'"
    assert errors.what_is_missing("this", ModuleNotFoundError(name="paddle.absent")) is None  # a fault, not a missing package


def test_the_workflow_tries_each_python_that_the_package_is_for():
    text = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == versions
    assert {"run": ".ci/run"}.items() <= jobs["test"]["steps"][-1].items()
    first, last = (int(version.partition(".")[2]) for version in (versions[0], versions[-1]))
    assert f'requires-python = ">=3.{first},<3.{last + 1}"' in text and len(versions) == last - first + 1


def test_the_change_log_begins_with_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert newest == rdrop_paddle.__version__
