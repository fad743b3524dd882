"""One page per subject: what it says against nibabel and pandas, and that it needs nothing beside it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

import isles24_zarr
from isles24_zarr.errors import DestinationError, UnknownNameError
from isles24_zarr.figures.subject_page import Section, SubjectSummary, html_page

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

S = "sub-stroke0002"


class Page(HTMLParser):
    """Tags, attributes, and rows of cells of a page; every tag is closed."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def summary(store: Path) -> SubjectSummary:
    return isles24_zarr.open_cohort(store).isles.summary(S)


@pytest.fixture(scope="module")
def page(summary: SubjectSummary, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(summary.save(tmp_path_factory.mktemp("page") / "page.html").read_text("utf-8"))


def test_the_page_needs_nothing_beside_it(page: Page) -> None:
    assert "script" not in page.tags
    assert "link" not in page.tags
    (picture,) = page.links
    kind, data = picture.split(",", 1)
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size[0] > 800


def test_clinical_values_are_those_of_the_tables(page: Page, release: Path) -> None:
    said = {row[0]: row[1] for row in page.rows if len(row) == 2}
    columns = {"age": "Age", "nihss_admission": "NIHSS at admission", "glucose": "Glucose", "inr": "INR"}
    (baseline,) = release.glob(f"phenotype/{S}/ses-01/*.xlsx")
    values = pd.read_excel(baseline).iloc[0]
    for name, column in columns.items():
        assert float(said[name].split(" ")[0]) == values[column]
    assert said["center"] == values["Center"]
    assert said["age"].endswith(" years")
    assert said["glucose"].endswith(" mg/dL")
    (outcome,) = release.glob(f"phenotype/{S}/ses-02/*.xlsx")
    missing = next(text for text in page.words if text.startswith("Missing: "))
    assert ("nihss_24h" in missing) == bool(pd.isna(pd.read_excel(outcome).iloc[0]["NIHSS 24h"]))


def test_volumes_are_those_of_nibabel(page: Page, release: Path) -> None:
    said = {row[0]: row[1] for row in page.rows if len(row) == 2}
    for label, pattern, least in (
        ("final infarct", "lesion-msk", 0),
        ("large vessel occlusion", "lvo-msk", 0),
        ("Tmax > 6 s", "space-ncct_tmax", 6),
    ):
        image = nib.load(next(release.glob(f"derivatives/{S}/**/*{pattern}.nii.gz")))
        voxels = np.asarray(image.dataobj)
        volume = np.count_nonzero(voxels > least) * abs(np.linalg.det(image.affine[:3, :3])) / 1000
        assert said[label] == f"{volume:.1f} mL"


def test_arrays_and_grids_are_listed_with_their_sizes(page: Page, release: Path) -> None:
    arrays = {(row[0], row[1]): row for row in page.rows if len(row) == 6}
    files = [*release.glob(f"derivatives/{S}/**/*.nii.gz"), *release.glob(f"raw_data/{S}/**/*.nii.gz")]
    # the NCCT as acquired is the reference of the space of that name
    assert len(arrays) == len(files) + 1  # and the names of columns
    acquired = nib.load(next(release.glob(f"raw_data/{S}/**/*_ctp.nii.gz")))
    assert sorted(map(int, arrays["ctp", "ctp"][2].split(" \N{MULTIPLICATION SIGN} "))) == sorted(acquired.shape)
    assert arrays["ctp", "ctp"][3] == str(acquired.get_data_dtype())
    grids = {row[0]: row for row in page.rows if len(row) == 5}
    spacing = [float(step) for step in grids["ncct"][2].split(" \N{MULTIPLICATION SIGN} ")]
    reference = nib.load(next(release.glob(f"raw_data/{S}/**/*_ncct.nii.gz")))
    canonical = nib.as_closest_canonical(reference)
    np.testing.assert_allclose(spacing, nib.affines.voxel_sizes(canonical.affine), atol=0.006)
    assert grids["ncct"][1] == " \N{MULTIPLICATION SIGN} ".join(map(str, canonical.shape))


def test_png_holds_the_montage_beside_the_tables(summary: SubjectSummary, tmp_path: Path) -> None:
    with Image.open(summary.save(tmp_path / "page.png")) as picture:
        whole = np.asarray(picture.convert("RGB")).astype(int)
    montage = np.asarray(Image.open(io.BytesIO(summary.picture)).convert("RGB")).astype(int)
    height, width = montage.shape[:2]
    assert np.abs(whole[:height, :width] - montage).mean() < 2
    assert (whole[:, width:] > 128).any(axis=(1, 2)).sum() > height / 4, "no tables"
    assert not (whole[:, -4:] > 40).any(), "a table runs over the edge"
    assert not (whole[-4:] > 40).any(), "a table runs over the edge"


def test_text_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>&\"'"
    section = Section(title=evil, columns=(evil, "b"), rows=((evil, evil),), note=evil)
    text = html_page(SubjectSummary(subject=evil, sections=(section,), picture=b""))
    page = Page(text)
    assert "script" not in page.tags
    assert page.rows == [[evil, "b"], [evil, evil]]
    assert "".join(page.words).count(evil) == 7


def test_notebooks_show_a_part_of_a_page(summary: SubjectSummary) -> None:
    part = summary._repr_html_()
    assert not re.search(r"<(html|body|!DOCTYPE)", part)
    # what it styles is its own
    rules = re.findall(r"([^{}]+)\{", re.search(r"<style>(.*?)</style>", part, flags=re.DOTALL)[1])  # type: ignore[index]
    assert all(each.strip().startswith(".isles24") for rule in rules for each in rule.split(","))


def test_the_same_subject_gives_the_same_page(store: Path, summary: SubjectSummary) -> None:
    again = isles24_zarr.open_cohort(store).isles.summary(S)
    assert html_page(again) == html_page(summary)


def test_a_subject_without_images_to_show(release: Path, client: Client, tmp_path: Path) -> None:
    store = tmp_path / "few.zarr"
    isles24_zarr.convert(release, store, subjects=[S], images=["lesion_mask"], client=client, progress=False)
    summary = isles24_zarr.open_cohort(store).isles.summary(S)
    page = Page(summary.save(tmp_path / "page.html").read_text("utf-8"))
    assert page.links == []
    assert "No image of this subject can be shown." in page.words
    absent = next(text for text in page.words if text.startswith("Not there: "))
    assert "ncct" in absent
    assert "lesion_mask" not in absent
    with Image.open(summary.save(tmp_path / "page.png")) as picture:
        assert picture.size[0] > 300


def test_impossible_requests(store: Path, summary: SubjectSummary, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="sub-stroke0003: is no subject of this cohort"):
        isles24_zarr.open_cohort(store).isles.summary("sub-stroke0003")
    with pytest.raises(DestinationError, match=r"page\.pdf: is no name for a page, end it in \.html or \.png"):
        summary.save(tmp_path / "page.pdf")
    with pytest.raises(DestinationError, match="cannot be written"):
        summary.save(tmp_path / "nowhere" / "page.html")


def test_dollars_are_no_formulas(tmp_path: Path) -> None:
    """In the tables of a page, which come from outside: it can be drawn, and not as a formula."""
    section = Section(title="Values", columns=(), rows=(("center", r"$\frac{1}{$ and $x^2$\x1b[2J"),))
    page = SubjectSummary(subject="sub-$x^$", sections=(section,), picture=b"")
    page.save(tmp_path / "page.png")
    texts = [text for text in page.figure().findobj(match=Text) if "$" in text.get_text()]
    assert texts
    assert not [text for text in texts if text.get_parse_math()]
