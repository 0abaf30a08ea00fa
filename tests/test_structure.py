"""The shape of the house: imports run one way, plots stay in modules named for them, and notebooks tell the story.

No more than that.
"""

import ast
import importlib
import subprocess

import nbformat
import pytest

from chromacc_lib import project_path
from chromacc_lib.parameters import check_settings, declared_parameters, read_profile
from chromacc_lib.report import FIGURES

# A module imports only from modules before it, in the order that the data flows.
ORDER = [
    "problems",
    "provenance",
    "progress",
    "network",
    "cache",
    "sources",
    "genome",
    "bigwig",
    "genes",
    "reference",
    "bed",
    "manifest",
    "fetch",
    "portal",
    "encode",
    "jaspar",
    "simulate",
    "matching",
    "windows",
    "intake",
    "signals",
    "normalization",
    "normalization_choice",
    "regions",
    "dataset",
    "curation",
    "layers",
    "model",
    "batches",
    "streaming",
    "objectives",
    "vitals",
    "callbacks",
    "pretraining",
    "devices",
    "training",
    "monitor",
    "workers",
    "sweep",
    "memory",
    "inference",
    "hub",
    "fit",
    "baselines",
    "intervals",
    "wording",
    "calibration",
    "strata",
    "comparison",
    "ceiling",
    "evaluation",
    "loci",
    "assays",
    "distance",
    "expectation",
    "leakage",
    "folds",
    "causes",
    "tables",
    "checks",
    "checks_scores",
    "checks_predictions",
    "checks_history",
    "checks_generalisation",
    "checks_inputs",
    "checks_labels",
    "checks_model",
    "collapse",
    "faults",
    "zoo_data",
    "zoo_training",
    "scoring",
    "attribution",
    "deeplift",
    "mutagenesis",
    "signal_attribution",
    "contributions",
    "attention",
    "motifs",
    "confirmation",
    "faithfulness",
    "ground_truth",
    "interpretation",
    "look",
    "quality",
    "writers",
    "tfrecord",
    "exports",
    "cell_inputs",
    "summary",
    "places",
    "chunks",
    "prediction",
    "variants",
    "plots_style",
    "plots_curation",
    "plots_training",
    "plots_evaluation",
    "plots_collapse",
    "plots_interpretation",
    "plots_prediction",
    "plots_compare",
    "plots_explorers",
    "plots",
    "explorers",
    "prediction_page",
    "zoo",
    "pages",
    "compare",
    "comparison_page",
    "report",
    "parameters",
    "console",
    "pipeline",
    "actions",
    "cli",
]
PLOTTING = {"matplotlib", "seaborn", "logomaker"}
NOTEBOOKS = [
    "01_data_curation",
    "02_training",
    "03_evaluation",
    "04_collapse_diagnostics",
    "05_interpretation",
    "06_prediction",
]
TOP_LEVEL = {
    "README.md",
    "LICENSE",
    "environment.yml",
    "pyproject.toml",
    "Makefile",
    ".ci",
    ".gitignore",
    ".gitattributes",
    "notebooks",
    "chromacc_lib",
    "data",
    "reports",
    "tests",
}
LONGEST_FUNCTION = 60  # lines, docstring left out

MODULES = sorted(path for path in project_path("chromacc_lib").glob("*.py") if path.stem != "__init__")
NOT_PLOTS = [path for path in MODULES if path.stem != "plots" and not path.stem.startswith("plots_")]
LIBRARY = {f"chromacc_lib.{path.stem}" for path in MODULES}
PATHS = sorted(project_path("notebooks").glob("[0-9][0-9]_*.ipynb"))


def by_stem(path):
    return path.stem


def own_imports(tree):
    """Return the modules of chromacc_lib that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("chromacc_lib.")
            }
        elif isinstance(node, ast.ImportFrom) and node.module == "chromacc_lib":
            found |= {alias.name for alias in node.names} & {path.stem for path in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chromacc_lib."):
            found.add(node.module.split(".")[1])
    return found


def outside_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def code_cells(path):
    """Return (source without IPython magics, tags) of each code cell."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [
        (
            "\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!"))),
            cell.metadata.get("tags", []),
        )
        for cell in cells
    ]


# --- the library --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=by_stem)
def test_imports_run_one_way(path):
    assert path.stem in ORDER, f"{path.name}: give the module its place in ORDER"
    before = set(ORDER[: ORDER.index(path.stem)])
    assert own_imports(ast.parse(path.read_text(encoding="utf-8"))) <= before


def test_the_order_names_only_modules_that_exist():
    assert set(ORDER) == {path.stem for path in MODULES}


@pytest.mark.parametrize("path", NOT_PLOTS, ids=by_stem)
def test_plots_are_made_in_modules_named_plots(path):
    assert PLOTTING.isdisjoint(outside_imports(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", MODULES, ids=by_stem)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node)
            first = node.body[1] if docstring is not None and len(node.body) > 1 else node.body[0]
            length = node.end_lineno - first.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=by_stem)
def test_public_functions_say_what_they_do(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name}: no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=by_stem)
def test_public_names_are_listed(path):
    listed = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert len(listed) == 1, f"{path.name}: __all__ at the top says what is public"


def test_the_top_level_keeps_to_its_names():
    if not project_path(".git").exists():
        pytest.skip("not a git checkout: what belongs to the project is not known")
    listed = subprocess.run(
        ["git", "-C", str(project_path("")), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {name.strip('"').split("/")[0] for name in listed} <= TOP_LEVEL


# --- the notebooks ------------------------------------------------------------------------------------------


def test_six_notebooks_in_sequence():
    assert [path.stem for path in PATHS] == NOTEBOOKS


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_notebook_holds_the_story_and_the_library_the_code(path):
    for source, _ in code_cells(path):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), source


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_what_a_notebook_takes_from_the_library_is_there(path):
    taken, missing = {}, []
    for tree in (ast.parse(source) for source, _ in code_cells(path)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chromacc_lib"):
                library = importlib.import_module(node.module)
                missing += [alias.name for alias in node.names
                            if not hasattr(library, alias.name) and f"{node.module}.{alias.name}" not in LIBRARY]
                taken |= {alias.asname or alias.name: importlib.import_module(f"{node.module}.{alias.name}")
                          for alias in node.names if f"{node.module}.{alias.name}" in LIBRARY}  # fmt: skip
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken:
                missing += [] if hasattr(taken[node.value.id], node.attr) else [f"{node.value.id}.{node.attr}"]
    assert taken and missing == []


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_notebook_is_committed_without_outputs(path):
    content = nbformat.read(path, as_version=4)
    assert "widgets" not in content.metadata and "papermill" not in content.metadata
    for cell in content.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert "execution" not in cell.metadata and "papermill" not in cell.metadata


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_notebook_is_valid_and_asks_for_the_python_kernel(path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    assert (content.nbformat, content.nbformat_minor) >= (4, 5)
    assert content.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_notebook_opens_with_its_title_and_ends_with_its_limits(path):
    prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    assert prose[0].startswith("# ") and "?" in prose[0], "title and one question"
    assert "what this shows, and what it does not" in prose[-1].lower()


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_notebook_checks_what_the_next_one_relies_on(path):
    last = [source for source, tags in code_cells(path) if "skip-execution" not in tags][-1]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(last))), last


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_notebook_has_one_parameters_cell_with_units(path):
    assert sum("parameters" in tags for _, tags in code_cells(path)) == 1
    parameters = declared_parameters(path)
    assert {"run_dir", "dataset_dir", "seed"} <= parameters.keys()
    assert [
        name for name, parameter in parameters.items() if not parameter.help
    ] == [], "unit or allowed values, please"


def test_a_parameter_means_the_same_everywhere():
    first = {}
    for path in PATHS:
        for name, parameter in declared_parameters(path).items():
            known = first.setdefault(name, (path.name, parameter))
            assert known[1][:3] == parameter[:3], f"{name}: {known[0]} and {path.name} differ"


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_every_figure_is_shown_with_its_alt_text(path):
    for source, tags in code_cells(path):
        assert PLOTTING.isdisjoint(outside_imports(ast.parse(source))), "plots come from chromacc_lib.plots"
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        named = [ast.unparse(call.func) for call in calls]
        if any(name.startswith("plots.plot_") for name in named) and "skip-execution" not in tags:
            assert "plots.show" in named, source
        for call in calls:
            if ast.unparse(call.func) == "plots.show":
                assert len(call.args) > 1 or "alt" in {keyword.arg for keyword in call.keywords}, source


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_widgets_and_only_they_are_skipped_by_headless_runs(path):
    """nbclient, and with it papermill and nbconvert, leaves out cells that are tagged so."""
    for source, tags in code_cells(path):
        tree = ast.parse(source)
        widget = "explorers" in own_imports(tree) or "ipywidgets" in outside_imports(tree)
        assert widget == ("skip-execution" in tags), source


@pytest.mark.parametrize("path", PATHS, ids=by_stem)
def test_a_static_figure_stands_beside_each_widget(path):
    cells = code_cells(path)
    for at, (_, tags) in enumerate(cells):
        if "skip-execution" in tags:
            assert any("plots.show(" in source for source, _ in cells[max(0, at - 1):at + 4]), cells[at]


def test_the_report_has_figures():
    tags = [tag for path in PATHS for _, of_cell in code_cells(path) for tag in of_cell]
    assert {tag: n for tag, n in FIGURES.items() if tags.count(tag) < n} == {}


# --- the profiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(project_path("notebooks/profiles").glob("*.yaml")), ids=by_stem)
def test_profile_sets_known_parameters_that_differ_from_the_defaults(path):
    declared = {name: p for notebook in PATHS for name, p in declared_parameters(notebook).items()}
    values = check_settings(read_profile(path.stem, path.parent)[1], declared)
    assert {n: v for n, v in values.items() if n != "source" and v == declared[n].default} == {}


def test_the_shipped_profiles():
    assert {path.stem for path in project_path("notebooks/profiles").glob("*.yaml")} >= {
        "smoke",
        "pilot",
        "local",
        "encode-mini",
        "encode",
    }
