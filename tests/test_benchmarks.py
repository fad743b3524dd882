"""The benchmarks measure what they say: right voxels, right ratios, every number there. No timing is asserted."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import zarr

from benchmarks import (
    blosc,
    bounds,
    chunks,
    cohort,
    conversion,
    converters,
    loaders,
    scaling,
    stages,
    targets,
    training,
)
from benchmarks.blosc import B2ND, B2ndDefault, B2ndNnUNet, B2ndSmallBlocks
from benchmarks.chunked import READERS, Hdf5, Ours, OursDask, TensorStore, ZarrsDirect
from benchmarks.measurement import OURS, Measurement, Results, alternated
from benchmarks.readers import MemoryMap, NibabelGzip
from benchmarks.reads import reads
from benchmarks.reference import CTP, IMAGES, PATCH_IMAGES, Reference, Region, WrongVoxelsError
from benchmarks.regions import (
    AXIAL,
    AXIAL_CLOSED,
    BLOCK,
    CURVE,
    LOADS,
    READS,
    WEIGHTS,
    WHOLE,
    reads_of,
    weighted_mean,
)
from benchmarks.report import markdown, read_json, write_json
from tests.oracle import canonical_voxels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.loaders import Found
    from benchmarks.readers import Fetch, Reader

for peer in ("blosc2", "h5py", "hdf5plugin", "zarrs"):  # of the extra bench
    pytest.importorskip(peer)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reference(release: Path, store: Path) -> Reference:
    return Reference(release, store, "sub-stroke0001")


def result(**medians: float) -> Results:
    found = Results()
    for by, value in medians.items():
        found.add("reads", AXIAL_CLOSED, by, [value])
    return found


def about(command: str = "python -m benchmarks") -> dict[str, Any]:
    machine = {
        "cores": 2, "processor": "x", "memory_gb": 1, "system": "x", "python": "3", "load_before": 0, "packages": {},
    }  # fmt: skip
    run = {"command": command, "date": "2026-01-01", "settings": {}, "machine": machine, "notes": ["a note"]}
    return {"reads": run}


# --- the whole suite ---


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    arguments = ["--scale", "tiny", "--repeats", "1", "--cohorts", "15", "30", "--out", str(out)]
    arguments += ["--methods", "fork"]  # the other way imports all libraries twice more
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return out


def test_every_measurement_is_there(suite: Path) -> None:
    document = json.loads((suite / "results.json").read_text())
    found = {(row["measure"], row["by"]): row for row in document["measurements"]}
    left_out = {row["what"] for row in document["left_out"]}
    required = {Ours, OursDask, TensorStore, MemoryMap, NibabelGzip, *B2ND}
    for reader in READERS:  # without PyTorch our loader is left out, which bears the name of our reader
        if reader in required or reader.name not in left_out:
            assert {measure for measure, by in found if by == reader.name} >= set(reader.reads)
    for loader in loaders.LOADERS:
        for workers, cold in itertools.product((0, *training.COUNTS), (False, True)):
            name = training.rate_name(workers, "fork", cold=cold)
            dead = {f"{loader.name}, 2 workers by fork", f"{loader.name}, 1 worker by fork"}
            assert (name, loader.name) in found or not {loader.name, *dead}.isdisjoint(left_out)
    if OURS not in left_out:
        grown = found[training.growth_name(training.WORKERS, "fork"), OURS]
        assert len(grown["values"]) == training.WORKERS
        assert max(grown["values"]) < 30
    for measure in (conversion.PEAK, conversion.RATE, conversion.SECONDS):
        assert (measure, conversion.workers_name(1)) in found
    for measure in (conversion.IDLE, conversion.STORED, conversion.FILES, conversion.LONG_PEAK):
        assert (measure, OURS) in found
    assert (conversion.BOUND, "gunzip + encode") in found
    for measure in (scaling.REAL, scaling.MODELLED):
        assert (measure, conversion.workers_name(1)) in found
    assert {by for measure, by in found if measure == scaling.FULL} >= {
        scaling.full_name(count, 1) for count in scaling.WORKERS
    }
    for name in converters.CONVERTERS:
        assert name in left_out or (converters.QUARTER_SECONDS, name) in found
    parts = {*stages.READS, stages.CONVERSION, stages.PAGES}
    assert {row["measure"] for row in document["measurements"] if row["section"] == stages.SECTION} == parts
    assert (cohort.open_name(30), cohort.DATATREE) in found
    assert (cohort.map_name(15), conversion.workers_name(1)) in found
    assert {by for measure, by in found if measure == cohort.START} == {"Python alone", "xarray", OURS}
    assert all(value > 0 for (measure, _), row in found.items() if measure not in parts for value in row["values"])


def test_stages_add_up_to_all(suite: Path) -> None:
    results, _ = read_json(suite / "results.json")
    assert [title for title, _ in stages.tables(results)] == [*stages.READS, stages.CONVERSION]
    for measure in (*stages.READS, stages.CONVERSION):
        runs = {each.by: each.values for each in results.of(stages.SECTION) if each.measure == measure}
        whole = runs.pop(stages.IN_ALL)
        assert [sum(run) for run in zip(*runs.values(), strict=True)] == pytest.approx(whole, rel=0.02)
        # what all of it is for takes time, in every run: on a busy machine one is several times as long as another
        for stage in stages.IN_BOUND if measure == stages.CONVERSION else [stages.UNPACK]:
            assert all(0 < part < run for part, run in zip(runs[stage], whole, strict=True))


def test_page_shows_targets_and_figures(suite: Path) -> None:
    page = (suite / "README.md").read_text()
    assert "python -m benchmarks --scale tiny" in page
    for target in targets.targets():
        assert f"| {target.measure} | {target.against} | {target.wanted} |" in page
    figures = sorted(suite.glob("*.png"))
    shown = {"chunks", "cohort", "conversion", "reads", "scaling", "startup"}
    assert {figure.stem for figure in figures} - {"training"} == shown
    assert f"| {Ours.name} | " in page.partition(f"| by | {targets.WEIGHTED} |")[2].partition("\n\n")[0]
    for figure in figures:
        assert f"(./{figure.name})" in page
        assert figure.read_bytes().startswith(b"\x89PNG")


# --- voxels ---


class Shifted(MemoryMap):
    """A reader that is one voxel off."""

    name = "shifted"

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        with super().opened(images) as fetch:
            yield lambda name, index: np.roll(fetch(name, (slice(None),) * len(index)), 1, axis=0)[index]


class Flipped(Ours):
    """A reader that has right for left."""

    name = "flipped"

    @contextlib.contextmanager
    def opened(self, images: Sequence[str]) -> Iterator[Fetch]:
        with super().opened(images) as fetch:
            yield lambda name, index: fetch(name, index)[..., ::-1]


@pytest.mark.parametrize("reader", [Shifted, Flipped])
def test_wrong_voxels_are_caught(reader: type[MemoryMap], reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(WrongVoxelsError, match=reader.name):
        reads(reference, tmp_path, repeats=1, threads=1, cold=False, readers=[reader])


def test_right_voxels_are_timed_from_a_cold_cache(reference: Reference, tmp_path: Path) -> None:
    found = reads(reference, tmp_path, repeats=1, threads=1, cold=True, readers=[Ours, MemoryMap])
    assert {(each.measure, each.by) for each in found.measurements} == {
        (read, reader.name) for read in READS for reader in (Ours, MemoryMap)
    }
    assert not list(tmp_path.iterdir())


def test_an_absent_reader_is_said_to_be(reference: Reference, tmp_path: Path) -> None:
    class Absent(MemoryMap):
        name = "absent"
        needs = ("no_such_module",)

    found = reads(reference, tmp_path, repeats=1, threads=1, cold=False, readers=[Absent])
    assert [(each.what, each.why) for each in found.left_out] == [("absent", "no_such_module is not installed")]
    assert not found.measurements


class Odd(B2ndSmallBlocks):
    """Chunks of several frames, the last of which are not full."""

    name = "odd"

    def partition(self, shape: tuple[int, ...], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ARG002
        return (5, 5, 20, 30)[: len(shape)], (2, 3, 10, 7)[: len(shape)]


@pytest.mark.parametrize("kind", [*B2ND, Odd, Hdf5])
def test_peers_hold_all_voxels_of_the_files(kind: type[Reader], reference: Reference, tmp_path: Path) -> None:
    reader = kind(reference, tmp_path, threads=1)
    reader.prepare()
    with reader.opened(IMAGES) as fetch:
        for name, file in reference.files.items():
            canonical = canonical_voxels(nib.Nifti1Image.from_filename(file))
            voxels = fetch(name, (slice(None),) * canonical.ndim)
            assert np.array_equal(voxels, canonical)


def test_files_of_b2nd_are_opened_with_as_many_threads_as_are_allowed(reference: Reference, tmp_path: Path) -> None:
    reader = B2ndDefault(reference, tmp_path, threads=1)
    reader.prepare()
    for threads in (1, 2):
        assert blosc.opened_b2nd(reader.path_of(CTP), threads).dparams.nthreads == threads


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunks", "blocks"),
    [  # as nnunetv2 2.8.1 gives them
        ((45, 74, 640, 512), 2, (1, 74, 144, 144), (1, 32, 64, 32)),
        ((1, 74, 640, 512), 2, (1, 74, 144, 144), (1, 32, 64, 32)),
        ((5, 74, 640, 512), 4, (1, 74, 144, 144), (1, 32, 32, 32)),
    ],
)
def test_partition_of_nnunet(
    shape: tuple[int, ...], itemsize: int, chunks: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    assert blosc.nnunet_partition(shape, itemsize) == (chunks, blocks)
    if shape[0] != 5:
        wanted = (chunks, blocks) if shape[0] > 1 else (chunks[1:], blocks[1:])
        assert (
            B2ndNnUNet.partition(object.__new__(B2ndNnUNet), shape if shape[0] > 1 else shape[1:], itemsize) == wanted
        )


def test_partition_is_that_of_nnunet_itself() -> None:
    theirs = pytest.importorskip("nnunetv2.training.dataloading.nnunet_dataset", exc_type=ImportError)
    rng = random.Random(0)  # noqa: S311
    for _ in range(300):
        shape = (rng.randint(1, 9), *(rng.randint(1, 700) for _ in range(3)))
        patch, itemsize = tuple(rng.randint(1, 200) for _ in range(3)), rng.choice([1, 2, 4, 8])
        # grow_singleton_patch_axes: the rule for patches of one slice is not needed here
        blocks, chunks = theirs.comp_blosc2_params(shape, patch, itemsize, grow_singleton_patch_axes=True)
        assert blosc.nnunet_partition(shape, itemsize, patch) == (chunks, blocks)


@pytest.mark.parametrize("subject", ["sub-stroke0001", "sub-stroke0002", "sub-stroke0004"])
def test_regions_are_found_in_files_of_any_orientation(subject: str, release: Path, store: Path) -> None:
    file = next(release.rglob(f"{subject}_ses-01_cta.nii.gz"))
    canonical = canonical_voxels(nib.load(file))
    reference = Reference(release, store, subject)
    reference.__dict__["files"] = {"cta": file}
    region = Region(images=("cta",), zyx=(slice(3, 9), slice(20, 31), slice(15, 33)))
    box = canonical[region.zyx]
    in_file = np.asarray(nib.Nifti1Image.from_filename(file).dataobj)[reference.index("cta", region, "file")]
    assert reference.shape("cta") == canonical.shape
    assert np.array_equal(np.sort(in_file, axis=None), np.sort(box, axis=None))
    reference.check("oracle", "cta", region, "canonical", box)
    reference.check("oracle", "cta", region, "file", in_file)
    reference.check("oracle", "cta", region, "reversed", in_file.T)
    assert reference.canonical("cta", reference.index("cta", region, "file")) == region.zyx
    with pytest.raises(WrongVoxelsError):
        reference.check("oracle", "cta", region, "canonical", np.roll(box, 1, axis=1))


def test_places_are_inside_the_same_for_all_and_not_repeated(reference: Reference) -> None:
    shape = reference.shape(CTP)
    first, second = reads_of(shape, places=8), reads_of(shape, places=8)
    assert first == second
    assert [read.name for read in first] == list(READS)
    assert set(LOADS) <= set(READS)
    for read in first:
        for region in read.regions:
            cuts = (*((region.time,) if region.time else ()), *region.zyx)
            limits = shape if region.time else shape[1:]
            assert all(0 <= cut.start < cut.stop <= count for cut, count in zip(cuts, limits, strict=True))
    slices = next(read for read in first if read.name == AXIAL).regions
    assert len({str(region) for region in slices}) > 1


# --- training ---


def first_batches(kind: type[loaders.Loader], reference: Reference, folder: Path) -> tuple[loaders.Loader, list[Any]]:
    origins = loaders.origins_of(reference, 4, (8, 16, 20))
    loader = kind(reference, folder / kind.__name__, origins, (8, 16, 20))
    loader.patches = 4
    loader.folder.mkdir()
    loader.prepare()
    return loader, list(next(loader.epochs(0)))


@pytest.mark.parametrize("installed", [True, False])
def test_nnunet_gives_the_voxels_that_ours_gives_at_the_same_places(
    installed: bool, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    if not installed:
        monkeypatch.setattr(loaders, "_NNUNET", ("no_such_module",))
    elif loaders.missing(loaders._NNUNET):
        pytest.skip("nnunetv2 is not installed")
    ours, found = first_batches(loaders.OurPatches, reference, tmp_path)
    theirs, others = first_batches(loaders.NnUNet, reference, tmp_path)
    assert len(found) == len(others) == 2
    for batch, other in zip(found, others, strict=True):
        assert batch["image"].shape == (2, len(PATCH_IMAGES), 8, 16, 20)
        assert np.array_equal(batch["origin"], other["origin"])
        assert batch["image"].dtype == other["image"].dtype
        assert np.array_equal(batch["image"], other["image"])
        assert np.array_equal(batch["label"], other["label"])
        training._check(ours, batch)
        training._check(theirs, other)
    assert len({str(origin) for origin in ours.origins}) > 1


class Elsewhere(loaders.OurPatches):
    """A loader that has its patches from a voxel further."""

    name = "elsewhere"

    def found(self, batch: Any) -> Iterator[Found]:
        for origin, images in super().found(batch):
            yield (origin[0] + 1 if origin[0] == 0 else origin[0] - 1, *origin[1:]), images


def test_patches_from_elsewhere_are_caught(reference: Reference, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    loader, (batch, _) = first_batches(Elsewhere, reference, tmp_path)
    with pytest.raises(WrongVoxelsError, match="elsewhere"):
        training._check(loader, batch)


def test_an_absent_loader_is_said_to_be(reference: Reference, tmp_path: Path) -> None:
    class Absent(loaders.OurPatches):
        name = "absent"
        needs = ("no_such_module",)

    found = training.training(reference, tmp_path, repeats=1, loaders=[Absent])
    assert [(each.what, each.why) for each in found.left_out] == [("absent", "no_such_module is not installed")]
    assert not found.measurements


# --- cohorts ---


def test_replicated_subjects_are_like_the_first(store: Path, tmp_path: Path) -> None:
    copy = cohort.replicated(store, tmp_path / "many.zarr", subjects=3)
    group = zarr.open_group(copy, mode="r", use_consolidated=False)
    assert sorted(group["phenotype/subject"][:].tolist()) == ["sub-stroke0001", "sub-stroke0002", "sub-stroke0003"]
    original = zarr.open_array(store / "sub-stroke0001/space-ncct/lesion_mask", mode="r")
    assert np.array_equal(group["sub-stroke0003/space-ncct/lesion_mask"][...], original[...])
    lesion, tmax = cohort.volumes(copy, "sub-stroke0003")
    spacing = [group[f"sub-stroke0003/space-ncct/{name}"].attrs["spacing"] for name in "xyz"]
    assert lesion == pytest.approx(np.count_nonzero(original[...]) * np.prod(spacing) / 1000)
    late = zarr.open_array(store / "sub-stroke0001/space-ncct/tmax", mode="r")[...] > 6
    assert tmax == pytest.approx(np.count_nonzero(late) * np.prod(spacing) / 1000)


# --- conversion ---


def test_series_are_lengthened_and_shortened(release: Path, tmp_path: Path) -> None:
    def series(folder: Path) -> Any:
        return np.asarray(nib.Nifti1Image.from_filename(next(folder.rglob("*0001*space-ncct_ctp.nii.gz"))).dataobj)

    before = series(release)
    # the first one found is that of any subject
    names = [path.name for path in release.rglob("*space-ncct_ctp.nii.gz")]
    assert len(names) == 3
    one = tmp_path / "one"
    for path in release.rglob("*sub-stroke0001*space-ncct_ctp.nii.gz"):
        (one / path.relative_to(release)).parent.mkdir(parents=True)
        (one / path.relative_to(release)).write_bytes(path.read_bytes())
    long = series(conversion.lengthened(one, tmp_path / "long", times=3))
    assert np.array_equal(long, np.concatenate([before] * 3, axis=3))
    short = series(conversion.shortened(one, tmp_path / "short", by=4))
    assert np.array_equal(short, before[..., : before.shape[3] // 4])


# --- numbers ---


def test_ratios_of_a_hand_made_run() -> None:
    results = Results()
    for by, seconds in (
        (Ours.name, [0.03, 0.01, 0.02]),  # median 20 ms
        ("nibabel .nii.gz", [5.0, 4.0, 3.9]),  # 4 s: 200 times as long
        ("nibabel get_fdata", [19.0]),  # 950 times
        ("HDF5 + Blosc", [0.1]),  # ours takes 0.2 of it
        ("tensorstore, our store", [0.01, 0.01, 0.01]),  # ours takes twice as long
        (OursDask.name, [0.045]),
        ("zarr-python + zarrs, our store", [0.04]),  # Dask adds 5 ms
    ):
        results.add("reads", AXIAL_CLOSED, by, seconds)
    found = {
        (verdict.target.measure, verdict.target.against): verdict
        for verdict in targets.verdicts(results)
        if verdict.value is not None
    }
    expected = {
        (AXIAL_CLOSED, "times as fast as nibabel .nii.gz"): (200, True),
        (AXIAL_CLOSED, "times as fast as nibabel get_fdata"): (950, False),
        (AXIAL_CLOSED, "of the time of HDF5 + Blosc"): (0.2, True),
        (AXIAL_CLOSED, "of the time of tensorstore, our store"): (2, False),
        (f"{AXIAL_CLOSED} through Dask", "on top of zarr-python + zarrs, our store"): (5, True),
    }
    assert {key: verdict.met for key, verdict in found.items()} == {key: met for key, (_, met) in expected.items()}
    for key, (value, _) in expected.items():
        assert found[key].value == pytest.approx(value)


def test_weighted_mean_of_hand_made_reads() -> None:
    assert sum(WEIGHTS.values()) == 10
    ones = dict.fromkeys(WEIGHTS, 1.0)
    assert weighted_mean(dict.fromkeys(WEIGHTS, 7.0)) == pytest.approx(7)
    assert weighted_mean(ones | {AXIAL: 2.0**10}) == pytest.approx(2)
    assert weighted_mean(ones | {BLOCK: 2.0**20}) == pytest.approx(8)
    assert weighted_mean({AXIAL: 2.0, CURVE: 8.0}) == pytest.approx(4)


def test_best_single_peer_is_one_reader_for_all_reads() -> None:
    results = Results()

    def add(by: str, **but: float) -> None:
        for read in WEIGHTS:
            results.add(
                "reads", read, by, [{CURVE: but.get("curve", 1.0), WHOLE: but.get("whole", 1.0)}.get(read, 1.0)]
            )

    add(Ours.name)
    add(B2ndSmallBlocks.name, curve=0.2, whole=9.0)  # quickest at curves, and second to another of its kind
    add(B2ndDefault.name, curve=1.5)
    add(Hdf5.name, curve=2.0, whole=0.5)
    add(ZarrsDirect.name, whole=0.25)
    results.add("reads", AXIAL, TensorStore.name, [0.5])  # not asked for all
    assert targets.best_peer(results) == ZarrsDirect.name
    assert targets.best_peer(results, B2ND) == B2ndDefault.name
    assert targets.quickest_peer(results, CURVE) == ZarrsDirect.name
    found = {verdict.target.measure: verdict for verdict in targets.verdicts(results) if verdict.value is not None}
    assert found[targets.WEIGHTED].value == pytest.approx(4**0.1)
    assert found[targets.WEIGHTED].met is False
    assert found[CURVE].value == 1
    assert found[AXIAL].value == 2
    assert found[WHOLE].value == 4
    (said,) = [text for text in bounds.bounds(results) if text.startswith(targets.WEIGHTED)]
    assert f"{WHOLE} 4 x" in said


def test_training_targets_are_of_rates() -> None:
    results = Results()
    name = training.rate_name(2, "forkserver", cold=False)
    for by, rate in ((OURS, 30.0), (loaders.NnUNet.name, 20.0), (loaders.MonaiDecoding.name, 4.0)):
        results.add("training", name, by, [rate], training.UNIT)
    found = [(verdict.value, verdict.met) for verdict in targets.verdicts(results) if verdict.target.measure == name]
    assert found == [(1.5, True), (7.5, False)]


def test_own_time_is_without_that_of_what_is_called() -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    timed = stages.Stages(lambda: now)
    inner = timed.timed("inner", lambda: work(2))

    def outer() -> None:
        work(1)
        inner()
        inner()
        work(4)

    def failing() -> None:
        inner()
        raise KeyError

    timed.timed("outer", outer)()
    assert timed.seconds == {"inner": 4, "outer": 5}
    with pytest.raises(KeyError):
        timed.timed("failing", failing)()
    assert timed.seconds == {"inner": 6, "outer": 5, "failing": 0}
    timed.timed("outer", outer)()
    assert timed.seconds["outer"] == 10


def test_missed_targets_are_explained_and_met_ones_are_not() -> None:
    def run(ours: float) -> Results:
        results = Results()
        for by, seconds in ((Ours.name, ours), ("HDF5 + Blosc", 0.005), ("memory map .nii", 0.0005)):
            results.add("reads", AXIAL_CLOSED, by, [seconds])
        for stage, seconds in (("open: parse JSON", 0.001), (stages.UNPACK, 0.004), (stages.IN_ALL, 0.006)):
            results.add(stages.SECTION, AXIAL_CLOSED, stage, [seconds])
        return results

    (said,) = bounds.bounds(run(0.006))
    assert said.startswith(
        f"{AXIAL_CLOSED}, of the time of HDF5 + Blosc; {AXIAL_CLOSED}, of the time of memory map .nii:"
    )
    # 0.6 x 5 ms is stricter than 8 x 0.5 ms
    assert "takes 6 ms" in said
    assert "is 1 ms (parse JSON 1 ms), and Blosc 4 ms" in said
    assert "leaves 3 ms" in said
    assert not list(bounds.bounds(run(0.002)))
    assert "What is in the way" in markdown(run(0.006), {**about(), stages.SECTION: about()["reads"]}, figures=".")


def test_every_target_that_the_page_misses_is_explained_there() -> None:
    results, _ = read_json(ROOT / "docs" / "performance" / "results.json")
    missed = [each.target for each in targets.verdicts(results) if each.met is False]
    said = [text.partition(":")[0].split("; ") for text in bounds.bounds(results)]
    assert sorted(name for names in said for name in names) == sorted(f"{t.measure}, {t.against}" for t in missed)


def test_what_other_levels_would_store() -> None:
    results = Results()
    results.add("conversion", conversion.STORED, OURS, [0.8])
    for cut, stored, seconds in zip(
        (chunks.chosen(), *chunks.same_but_for_level()), (0.2, 0.19, 0.18), (2, 3, 5), strict=True
    ):
        results.add("chunks", chunks.STORED, cut.name, [stored])
        results.add("chunks", chunks.ENCODE, cut.name, [seconds])
    (said,) = bounds.bounds(results)
    assert "level 3 would give 0.760 x, and take 1.5 x" in said
    assert "level 5 would give 0.720 x, and take 2.5 x" in said


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert all(verdict.met is None for verdict in targets.verdicts(Results()))
    page = markdown(Results(), about(), figures=".")
    assert "0 of 0 measured targets are met" in page


def test_all_workers_is_the_largest_cluster() -> None:
    results = Results()
    for count in (2, 10, 1):
        results.add("conversion", conversion.SECONDS, conversion.workers_name(count), [1.0])
    assert targets.all_workers(results) == conversion.workers_name(10)


def test_medians_and_quartiles() -> None:
    values = [random.Random(0).random() for _ in range(11)]  # noqa: S311
    measurement = Measurement(section="reads", measure="x", by="y", values=tuple(values))
    assert measurement.median == np.median(values)
    assert measurement.quartiles == pytest.approx(np.quantile(values, [0.25, 0.75]))
    single = Measurement(section="reads", measure="x", by="y", values=(3.0,))
    assert (single.median, single.quartiles) == (3.0, (3.0, 3.0))


def test_a_run_comes_back_from_json(tmp_path: Path) -> None:
    results = result(**{Ours.name: 0.02, "HDF5 + Blosc": 0.1})
    results.leave_out("reads", "torchio", "is not installed")
    write_json(tmp_path / "run.json", results, about("python -m benchmarks --cold"))
    read, machine = read_json(tmp_path / "run.json")
    assert read == results
    assert machine == about("python -m benchmarks --cold")


def test_everyone_has_one_turn_a_round() -> None:
    turns: list[tuple[str, int]] = []

    def run(name: str) -> Any:
        return lambda number: turns.append((name, number)) or [float(number)]

    found = alternated({name: run(name) for name in "abc"}, rounds=20, seed=0)
    assert found == {name: [float(number) for number in range(20)] for name in "abc"}
    rounds = [turns[start : start + 3] for start in range(0, 60, 3)]
    assert all({name for name, _ in three} == set("abc") for three in rounds)
    assert len({tuple(name for name, _ in three) for three in rounds}) > 1
