"""What the pages of docs/ say runs, exists, and agrees with the package."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from isles24_zarr.cli.commands import app
from isles24_zarr.vocabulary import CLINICAL_VARIABLES, IMAGE_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))

NOT_RUN = {"how-to/cluster.md": 2, "how-to/s3.md": 2, "how-to/serve.md": 2}
"""Blocks of ``py`` instead of ``python``, by page: they need a cluster, a bucket or a server, and are only parsed."""

NEEDS = {
    "how-to/monai.md": ("torch", "monai"),
    "how-to/torchio.md": ("torch", "torchio"),
    "how-to/training.md": ("torch", "datasets"),
    "how-to/versions.md": ("icechunk",),
}
"""What pages need that is not everywhere."""


@pytest.mark.parametrize(
    "promise", re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", (DOCS / "reliability.md").read_text())
)
def test_every_promise_names_a_test_that_exists(promise: tuple[str, str]) -> None:
    module, name = promise
    assert f"def {name or 'test_'}" in (ROOT / "tests" / module).read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_of_a_page_runs_from_top_to_bottom(page: str, release: Path, store: Path, tmp_path: Path) -> None:
    for module in NEEDS.get(page, ()):
        pytest.importorskip(module)
    (tmp_path / "train").symlink_to(release)
    shutil.copytree(store, tmp_path / "isles24.zarr")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks(page, "python"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # what a page says is saved is there
    saved = re.findall(r"save(?:fig)?\(\"([^\"]+)\"\)", "".join(blocks(page, "python")))
    assert [name for name in saved if not (tmp_path / name).stat().st_size] == []


def test_python_that_is_not_run_is_counted_and_parsed() -> None:
    found = {page: blocks(page, "py") for page in PAGES}
    assert {page: len(codes) for page, codes in found.items() if codes} == NOT_RUN
    for codes in found.values():
        for code in codes:
            ast.parse(code)


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_begin_with_two_lines_to_swap_and_keep_their_pictures(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    first, *others = ("".join(cell["source"]) for cell in cells)
    assert len(re.findall(r"^[A-Z]+ = .*  # yours: ", first, flags=re.MULTILINE)) == 2
    assert not any("# yours" in source for source in others)
    assert all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # what ran in a folder of its own left no trace of somebody's machine
    assert not re.search(r"/home/|/root/|/work/", json.dumps(outputs))


def fences() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in re.findall(r"^```(\S*)$", (DOCS / page).read_text(), flags=re.MULTILINE):
            yield page, line


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {language for _, language in fences()} <= {"", "python", "py", "sh", "yaml"}


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    inline = [code for page in PAGES for code in re.findall(r"`(isles24-zarr [^`]+)`", (DOCS / page).read_text())]
    return [line for line in [*lines, *inline] if line.startswith("isles24-zarr ")]


@pytest.mark.parametrize("line", commands())
def test_commands_and_their_options_exist(line: str) -> None:
    root = typer.main.get_command(app)
    known = root.commands  # type: ignore[attr-defined]
    _, name, *words = line.split()
    if name.startswith("-"):
        assert name in {option for parameter in root.params for option in parameter.opts}
        return
    assert name in known
    options = {option for parameter in known[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)", (DOCS / page).read_text()):
            assert (DOCS / page).parent.joinpath(link).exists(), f"{page}: {link}"


def variables_table() -> str:
    """Return the tables of variables.md, as the vocabulary has them; ``python -m tests.test_docs`` writes them."""
    lines = [
        "| name | column of the release | what it is | kind | units | can be |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in CLINICAL_VARIABLES:
        units = "" if each.units in (None, "1") else each.units
        possible = "{:,g} to {:,g}".format(*each.limits) if each.limits else ", ".join(each.categories) or "any text"
        lines.append(f"| `{each.name}` | {each.column} | {each.long_name} | {each.kind} | {units} | {possible} |")
    images = ["| name | what it is | units | session |", "| --- | --- | --- | --- |"]
    images += [
        f"| `{k.name}` | {k.long_name} | {'' if k.units == '1' else k.units} | {k.session} |" for k in IMAGE_KINDS
    ]
    return "\n".join([*lines, "", "## Images", "", *images])


def test_the_table_of_variables_is_that_of_the_vocabulary() -> None:
    assert variables_table() in (DOCS / "variables.md").read_text(), "run: python -m tests.test_docs"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "functions.html").read_text()
    assert "storage_options" in reference


if __name__ == "__main__":
    text = (DOCS / "variables.md").read_text()
    start, end = "<!-- from the vocabulary -->\n\n", "\n\n<!-- end -->"
    head, rest = text.split(start)
    (DOCS / "variables.md").write_text(f"{head}{start}{variables_table()}{end}{rest.split(end)[1]}")
