"""What was tried, and what happened: the tests record it, and tests/README.md holds what they recorded.

A test that takes the fixture `tried` calls it with a fault and what came of it. A row that the file does not have fails the
test; after a run of all tests, so does a row that no test recorded. `make faults` writes the rows of the tests that it runs.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD, END = "<!-- written by the tests: make faults -->\n", "<!-- end -->\n"
COLUMNS = "| what was tried | what happened | test |\n|---|---|---|\n"
ROW = re.compile(r"\| (.+) \| (.+) \| `(test_\w+)` \|")
LONGEST = 240


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the file."""
    parser.addoption("--write-faults", action="store_true", help="write what the tests tried into tests/README.md")


def in_one_line(what: object) -> str:
    """Return what happened as a cell of a table: without the folders, ports and digests of one run."""
    text = str(what.value if isinstance(what, pytest.ExceptionInfo) else what).strip()
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://server", text)
    text = re.sub(r"(?<![\w:/])(?:/[^/\s'\"(),:]+)+/(?=[^/\s])", "", text)
    text = re.sub(r"\b[0-9a-f]{32,64}\b", "(digest)", text)
    text = re.sub(r"\d+(?= bytes, and an index)|(?<=bad block at byte )\d+", "n", text)  # of what was compressed
    text = re.sub(r"\btest_[a-z_]+\d+\b", "(folder)", text)  # pytest's
    text = re.sub(r"(.)\1{20,}", r"\1\1\1…", text)
    text = re.sub(r"\s*\n\s*", "; ", "".join(c if c.isprintable() or c == "\n" else " " for c in text))
    text = text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
    return re.sub(r" {2,}", " ", text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def place(config: pytest.Config) -> Path:
    """Return the file that holds the rows."""
    return config.rootpath / "tests" / "README.md"


def read_rows(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return {test_file.py::test: its rows (what was tried, what happened)} of the file."""
    rows: dict[str, list[tuple[str, str]]] = {}
    module = ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        module = line.split("`")[1] if line.startswith("### `") else module
        if found := ROW.fullmatch(line):
            rows.setdefault(f"{module}::{found[3]}", []).append((found[1], found[2]))
    return rows


def records_of(folder: Path) -> dict[str, bool]:
    """Return {test_file.py::test: whether it takes `tried`} in the order of the files."""
    found = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = any(argument.arg == "tried" for argument in node.args.args)
    return found


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """A function that records a fault and what came of it: text, a Problem, or an error that was caught."""
    module, name = request.node.nodeid.split("::")[0].rpartition("/")[2], request.node.originalname
    known = read_rows(place(request.config)).get(f"{module}::{name}", [])

    def record(fault: str, outcome: object) -> None:
        row = in_one_line(fault), in_one_line(outcome)
        request.node.user_properties.append(("tried", (f"{module}::{name}", *row)))
        assert request.config.getoption("write_faults") or row in known, f"not in tests/README.md (make faults): {row}"

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what passed tests recorded; with pytest-xdist, in the process that gathers the reports."""
    if report.when == "call" and report.passed:
        for name, value in report.user_properties:
            if name == "tried":
                _SEEN.setdefault(value[0], []).append(tuple(value[1:]))


_SEEN: dict[str, list[tuple[str, str]]] = {}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the file where that was asked for; after a whole run, fail where it has rows that no test recorded."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    path = place(config)
    rows, tests = read_rows(path), records_of(path.parent)
    if config.getoption("write_faults"):
        merged = {test: list(dict.fromkeys(_SEEN.get(test, rows.get(test, [])))) for test, takes in tests.items() if takes}
        write_rows(path, merged)
        return
    whole = not config.option.keyword and not config.option.markexpr and list(config.args) == list(config.getini("testpaths"))
    if whole and exitstatus == pytest.ExitCode.OK and not config.option.collectonly:
        stale = [row for test, known in rows.items() for row in known if row not in _SEEN.get(test, [])]
        if stale:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f"\ntests/README.md has {len(stale)} row(s) that no test recorded (make faults): {stale[:3]}")


def write_rows(path: Path, rows: dict[str, list[tuple[str, str]]]) -> None:
    """Write the rows between the two marks of the file, by module."""
    text = path.read_text(encoding="utf-8")
    before, after = text.split(HEAD)[0], text.split(END)[1]
    body = ""
    for module in dict.fromkeys(test.split("::")[0] for test, some in rows.items() if some):
        docstring = ast.get_docstring(ast.parse((path.parent / module).read_text(encoding="utf-8"))) or ""
        body += f"\n### `{module}`\n\n{docstring.splitlines()[0] if docstring else ''}\n\n{COLUMNS}"
        for test, some in rows.items():
            if test.startswith(f"{module}::"):
                body += "".join(f"| {fault} | {outcome} | `{test.split('::')[1]}` |\n" for fault, outcome in some)
    path.write_text(f"{before}{HEAD}{body}\n{END}{after}", encoding="utf-8")
