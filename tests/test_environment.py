"""One list of pinned dependencies serves pip, conda and CI: the files agree, and the environment is what they
say.
"""

import ast
import importlib.metadata
import re
import sys
import tomllib

import nbformat
import pytest
import yaml

from chromacc_lib import project_path

PYPROJECT = tomllib.loads(project_path("pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PYPROJECT["project"]["dependencies"]
EXTRA = PYPROJECT["project"]["optional-dependencies"]["test"]
PINNED = re.compile(r"[A-Za-z0-9][\w.-]*==\d[\w.]*")
# What the import statement calls it, where that differs from the name on the package index.
IMPORT_NAMES = {
    "PyYAML": "yaml",
    "scikit-learn": "sklearn",
    "lightning-fabric": "lightning_fabric",
    "Jinja2": "jinja2",
    "modisco": "modiscolite",
    "pyzmq": "zmq",
    "ipython": "IPython",
    "google-crc32c": "google_crc32c",
}
CALLED_FOR = [
    "jupyterlab",
    "papermill",
    "torch",
    "numpy",
    "pyfaidx",
    "pyBigWig",
    "seaborn",
    "ipywidgets",
    "captum",
    "logomaker",
]


def name_of(requirement):
    return requirement.partition("==")[0]


def imports_of(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def library_imports():
    return {
        name for path in project_path("chromacc_lib").glob("*.py") for name in imports_of(path.read_text())
    }


def notebook_imports():
    found = set()
    for path in project_path("notebooks").glob("[0-9][0-9]_*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                lines = [
                    line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!"))
                ]
                found |= set(imports_of("\n".join(lines)))
    return found


@pytest.mark.parametrize("requirement", DEPENDENCIES + EXTRA)
def test_pinned_exactly(requirement):
    assert PINNED.fullmatch(requirement), f"{requirement}: pin it as name==version"


def test_each_dependency_stands_once():
    names = [name_of(requirement).lower() for requirement in DEPENDENCIES + EXTRA]
    assert sorted(names) == sorted(set(names))


def test_torch_first():
    assert DEPENDENCIES[0] == "torch==2.13.0"


def test_conda_takes_python_pip_and_the_project_only():
    conda = yaml.safe_load(project_path("environment.yml").read_text(encoding="utf-8"))
    assert conda["channels"] == ["conda-forge"]
    *from_conda, by_pip = conda["dependencies"]
    assert [re.split("[=<>]", entry)[0] for entry in from_conda] == ["python", "pip"]
    assert by_pip == {"pip": ["-e .[test]"]}


def test_conda_python_is_one_that_the_project_allows():
    conda = yaml.safe_load(project_path("environment.yml").read_text(encoding="utf-8"))
    version = conda["dependencies"][0].removeprefix("python=")
    lowest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_make_asks_for_the_python_that_the_project_requires():
    lowest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    makefile = project_path("Makefile").read_text(encoding="utf-8")
    assert f"({', '.join(lowest.split('.'))})" in makefile
    assert sys.version_info >= tuple(map(int, lowest.split(".")))


def test_make_and_ci_install_the_project_and_nothing_else():
    makefile = project_path("Makefile").read_text(encoding="utf-8")
    assert re.findall(r"pip install.*", makefile) == ["pip install -e '.[test]'"]
    assert re.search(
        r"^\$\(STAMP\): pyproject\.toml$", makefile, re.M
    ), "a changed list has to be installed again"
    ci = project_path(".ci/run").read_text(encoding="utf-8")
    assert "pip" not in ci.replace("pipefail", "")
    assert ci.rstrip().endswith("make test")


@pytest.mark.parametrize("requirement", DEPENDENCIES + EXTRA)
def test_installed_as_pinned(requirement):
    name, _, version = requirement.partition("==")
    assert importlib.metadata.version(name).partition("+")[0] == version  # 2.13.0+cpu is torch 2.13.0


def test_what_the_library_imports_is_pinned():
    pinned = {IMPORT_NAMES.get(name_of(r), name_of(r)) for r in DEPENDENCIES}
    unpinned = library_imports() - pinned - set(sys.stdlib_module_names) - {"chromacc_lib"}
    assert (
        unpinned == set()
    ), f"imported in chromacc_lib, but not in pyproject.toml's dependencies: {unpinned}"


@pytest.mark.parametrize("name", CALLED_FOR)
def test_called_for_and_in_the_list(name):
    assert name in map(name_of, DEPENDENCIES)


@pytest.mark.parametrize(
    "name", [name for name in CALLED_FOR if name != "jupyterlab"]
)  # `make lab` starts it
def test_called_for_and_really_used(name):
    assert name in library_imports() | notebook_imports()


def test_make_lab_starts_jupyterlab():
    assert re.search(r"^lab:.*\n\t.*jupyter lab ", project_path("Makefile").read_text(encoding="utf-8"), re.M)
