"""A real JupyterLab server and a real browser: the explorers are worked by the keyboard, and their figures change."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.error import HTTPError

import nbformat
import pytest
from browser import listened, needs_chromium, open_browser
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import TimeoutError
from test_fit import trained

from chromacc_lib import project_path

QUIET = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
         "--LabApp.extension_manager=readonly"]  # fmt: skip
NO_NEWS = "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
SLOW = 240_000  # ms that anything on the page may take, on a busy machine


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(folder):
    """Of a server that knows nothing of this user's settings, and asks nothing of the network."""
    (folder / NO_NEWS).parent.mkdir(parents=True)
    (folder / NO_NEWS).write_text('{"fetchNews": "false"}')
    names = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
             "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
    return os.environ | {name: str(folder / place) for name, place in names.items()}


def ask(address, token):
    """What the server answers, as JSON, as soon as it does."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers={"Authorization": f"token {token}"})) as answer:
                return json.load(answer)
        except HTTPError:
            raise
        except OSError:  # not listening yet, or not accepting
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A server: its folder of notebooks, its address, its token. It is stopped, and its kernels with it."""
    folder, token, port = tmp_path_factory.mktemp("lab"), secrets.token_hex(16), free_port()
    (folder / "work").mkdir()
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *QUIET, f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}"],
            cwd=folder, env=environment(folder), stdout=log, stderr=subprocess.STDOUT)  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            assert ask(f"{address}/api/status", token)["kernels"] == 0
            yield folder / "work", address, token
        finally:
            server.terminate()
            server.wait(30)


NOTEBOOK = '''\
from chromacc_lib import explorers, inference, look, plots
from chromacc_lib.batches import RegionData
from chromacc_lib.dataset import load_arrays

plots.use_style()
arrays = load_arrays({dataset!r})
model = inference.load_model({model!r}, arrays)
explorers.explore_locus(model, RegionData(arrays), arrays, cell_type="D")
---
explorers.explore_what_if(look.WhatIf(model, {dataset!r}), cell_type="D")
---
explorers.explore_attention(model, RegionData(arrays), arrays, cell_type="D")
---
explorers.follow_training({model!r}, give_up_s=1)'''


@pytest.fixture
def notebook(lab, curated, tmp_path):
    """A notebook of the four panels in the server's folder, on the tiny dataset and a model trained on it."""
    trained(curated[1], tmp_path / "model", [])
    text = NOTEBOOK.format(dataset=str(curated[1]), model=str(tmp_path / "model"))
    cells = [new_code_cell(source) for source in text.split("\n---\n")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), lab[0] / "explore.ipynb")
    return "explore.ipynb"


@pytest.fixture
def page():
    """A page of a browser that reaches this machine alone, and whatever went wrong on it."""
    with open_browser("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1") as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 4000})  # all cells in view: others are not there
        page.set_default_timeout(SLOW)
        yield page, listened(page, ("error",))[0]  # JupyterLab warns of its own plugins where a machine is slow


def shown(cell):
    """The PNG that a panel shows now."""
    return cell.locator("img[alt]").get_attribute("src")


def appear(page, what):
    """Wait until something is there; else say what the notebook looks like instead."""
    try:
        what.wait_for()
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{page.locator('.jp-Notebook').inner_text()}\ndialog: "
                             f"{page.locator('.jp-Dialog').all_inner_texts()}") from error


def run_cell(page, cell):
    """Run a cell by Shift+Enter, again until JupyterLab took it: one that is still getting ready drops it."""
    prompt = cell.locator(".jp-InputPrompt")
    for _ in range(SLOW // 3000):
        if page.locator(".jp-Dialog").count():
            page.keyboard.press("Escape")
        prompt.click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(3000)
        if prompt.inner_text().strip() != "[ ]:":
            return
    raise AssertionError(f"the cell was never run:\n{page.locator('.jp-Notebook').inner_text()}")


def changes(page, cell, do):
    """Do something to a panel, and wait until its figure is another one."""
    before = shown(cell)
    do()
    page.wait_for_function("([img, before]) => img.isConnected && img.src !== before || !img.isConnected",
                           arg=[cell.locator("img[alt]").element_handle(), before])  # fmt: skip
    assert shown(cell).startswith("data:image/png;base64,") and shown(cell) != before


@needs_chromium
def test_the_explorers_are_worked_by_the_keyboard_in_jupyterlab(lab, notebook, page):
    _, address, token = lab
    page, faults = page
    page.goto(f"{address}/lab/tree/{notebook}?token={token}")
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    for number in range(4):
        run_cell(page, cells.nth(number))
        appear(page, cells.nth(number).locator("img[alt], [data-mime-type*=error], [data-mime-type*=stderr]").first)
    wrong = page.locator("[data-mime-type*=error], [data-mime-type*=stderr]")
    assert wrong.all_text_contents() == [], "errors that a cell or a panel shows"
    locus, what_if, attention, training = (cells.nth(number) for number in range(4))
    changes(page, locus, lambda: locus.locator(".noUi-handle").press("ArrowRight"))
    assert locus.locator("img").get_attribute("alt").startswith("D, chrT1:")
    changes(page, locus, lambda: (locus.get_by_placeholder("chromosome:position").fill("chrT4:30,000"),
                                  locus.get_by_placeholder("chromosome:position").press("Enter")))  # fmt: skip
    assert "chrT4:" in locus.locator("img").get_attribute("alt")
    changes(page, what_if, lambda: what_if.get_by_role("button", name=re.compile("insert the motif")).press("Enter"))
    mark = what_if.locator(".widget-slider", has_text="H3K27ac").locator(".noUi-handle")
    changes(page, what_if, lambda: mark.press("ArrowLeft"))
    changes(page, what_if, lambda: what_if.get_by_label("cell type").select_option("A (train)"))
    changes(page, attention, lambda: attention.get_by_role("button", name="fusion").press("Enter"))
    training.get_by_text("finished: 2 of 2 epochs").wait_for()
    assert wrong.all_text_contents() == []
    assert faults == []


# --- make lab ------------------------------------------------------------------------------------------------


def test_make_lab_opens_the_notebooks(tmp_path):
    """The command of the Makefile itself, but for the environment that it would install."""
    (command,) = re.findall(r"^lab: .*\n\t\$\(BIN\)/(jupyter lab .*)$", project_path("Makefile").read_text(), re.M)
    token, port = secrets.token_hex(16), free_port()
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command.replace("jupyter lab", "jupyterlab").split(), *QUIET, f"--port={port}",
             f"--IdentityProvider.token={token}"],
            cwd=project_path(""), env=environment(tmp_path), stdout=log, stderr=subprocess.STDOUT)  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            ask(f"{address}/api/status", token)
            listed = ask(f"{address}/api/contents/notebooks", token)["content"]
            names = sorted(project_path("notebooks").glob("[0-9][0-9]_*.ipynb"))
            assert {path.name for path in names} <= {entry["name"] for entry in listed}
            with urllib.request.urlopen(f"{address}/?token={token}") as answer:
                assert answer.url.partition("?")[0] == f"{address}/lab/tree/notebooks" and answer.status == 200
            assert ask(f"{address}/api/kernelspecs", token)["default"] == "python3"
        finally:
            server.terminate()
            server.wait(30)
