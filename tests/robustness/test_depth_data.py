"""Measured depth as it should not be: refused by name or left out, and a training that meets it goes on."""

import csv
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import set_seed

from llm_mde.processing import DepthCollator, RGBDFolder, load_depth_dataset, read_depth
from llm_mde.processing.datasets import REQUIRED_COLUMNS
from tests.conftest import make_pair
from tests.processing.data_folders import index_row, write_index, write_photograph, write_raw
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_arguments

pytest.importorskip("datasets")
SIZE = (8, 6)


def make_folder(folder, raw=1500, num_pairs=5, columns=None, **changes):
    """Pairs with one row each in index.csv, which `changes` are written into."""
    rows = []
    for index in range(num_pairs):
        write_photograph(folder / "rgb" / f"{index}.png", SIZE)
        write_raw(folder / "depth" / f"{index}.png", raw, SIZE)
        rows.append(index_row(index) | changes)
    write_index(folder, rows, **({} if columns is None else {"columns": columns}))
    return folder


def one_pixel(value: int) -> np.ndarray:
    raw = np.zeros(SIZE[::-1])
    raw[2, 3] = value
    return raw


def sparse(share: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.where(generator.random((300, 400)) < share, generator.integers(1000, 9000, (300, 400)), 0)


def test_depth_of_every_kind_is_metres_or_refused(tally, tmp_path):
    counts = tally("depth maps and their index.csv")

    def case(name, names, is_right=None, **changes):
        folder = make_folder(tmp_path / name.replace(" ", "_").replace("/", "_"), **changes)
        counts.attempt(name, lambda: RGBDFolder(folder)[0], is_right, names)

    case("all missing", "no pixel", raw=0)
    case("millimetres given as metres", "0.001", raw=1500, depth_scale_to_metres="1")
    case("metres given as millimetres", "median depth", raw=2, depth_scale_to_metres="0.001")
    case("constant", "", lambda sample: np.allclose(sample.depth, 1.5))
    case("one valid pixel", "", lambda sample: np.count_nonzero(sample.depth) == 1, raw=one_pixel(1500))
    case("the invalid value", "no pixel", raw=2000)
    for scale in ("0", "-1", "nan", "inf", "", "x", "1e999"):
        case(f"scale {scale}", "depth_scale_to_metres", depth_scale_to_metres=scale)
    for offset in ("nan", "inf", "", "x"):
        case(f"offset {offset}", "depth_offset_metres", depth_offset_metres=offset)
    case("offset below all depth", "no pixel", depth_offset_metres="-5")
    for encoding in ("", "png17", "npz:", "jpeg", "../npy", "npy"):
        case(f"encoding {encoding}", "", depth_encoding=encoding)
    case("invalid values that are none", "line 2", invalid_raw_values="a;b")
    for name in ("rgb", "depth"):
        for number, path in enumerate(
            ("../x.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "C:\\x.png", "", ".", "~/x.png")
        ):
            case(f"{name} path {number}", "", **{name: path})
        case(f"{name} missing", "not there", **{name: f"{name}/none.png"})
    case("half a camera", "half a camera", fx="500")
    case("a camera of words", "`fx`", fx="a", fy="b", cx="c", cy="d")
    for column in REQUIRED_COLUMNS:
        columns = [each for each in REQUIRED_COLUMNS if each != column]
        case(f"without the column {column}", f"columns {column}", columns=columns)
    counts.check(least=45)


def test_arrays_of_every_kind_are_metres_or_refused(tally, tmp_path):
    counts = tally("depth arrays")
    good = np.full((6, 8), 2.0)
    for name, values, num_measured in (
        ("NaN", np.where(np.eye(6, 8) > 0, np.nan, good), 42),
        ("infinity", np.where(np.eye(6, 8) > 0, np.inf, good), 42),
        ("negative", np.where(np.eye(6, 8) > 0, -2, good), 42),
        ("nothing but NaN", np.full((6, 8), np.nan), 0),
        ("the largest number", np.where(np.eye(6, 8) > 0, 1e300, good), 42),
        ("the smallest number", np.where(np.eye(6, 8) > 0, 5e-324, good), None),
        ("integers", good.astype(np.int64), 48),
        ("half precision", good.astype(np.float16), 48),
    ):
        np.save(tmp_path / "depth.npy", values)

        def is_right(depth, num_measured=num_measured) -> bool:
            is_sane = bool(np.isfinite(depth).all()) and bool((depth >= 0).all())
            return is_sane and (num_measured is None or np.count_nonzero(depth) == num_measured)

        counts.attempt(name, lambda: read_depth(tmp_path / "depth.npy", "npy", scale=1), is_right)
    for name, values in (
        ("complex", good.astype(complex)),
        ("words", np.array([["a"]])),
        ("truth values", good > 1),
        ("three axes", np.zeros((2, 3, 4))),
        ("no axis", np.float32(3)),
        ("objects", np.array([[None]], dtype=object)),
    ):
        np.save(tmp_path / "depth.npy", values, allow_pickle=True)
        counts.attempt(name, lambda: read_depth(tmp_path / "depth.npy", "npy", scale=1), None, "depth.npy")
    content = (tmp_path / "depth.npy").read_bytes()
    for tenth in range(10):
        (tmp_path / "depth.npy").write_bytes(content[: len(content) * tenth // 10])
        counts.attempt(
            f"cut at {tenth}0 %", lambda: read_depth(tmp_path / "depth.npy", "npy", scale=1), None, "depth.npy"
        )
    write_raw(tmp_path / "depth.png", 1500, (40, 30))
    content = (tmp_path / "depth.png").read_bytes()
    for tenth in range(10):
        (tmp_path / "depth.png").write_bytes(content[: len(content) * tenth // 10])
        # With all pixels there, the end of the file says nothing more.
        counts.attempt(
            f"PNG cut at {tenth}0 %",
            lambda: read_depth(tmp_path / "depth.png"),
            lambda depth: np.allclose(depth, 1.5),
            "depth.png",
        )
    from tests.robustness.hostile_images import bomb

    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**7}, {10**7}), }}".ljust(117) + "\n"
    (tmp_path / "depth.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    counts.attempt("10^14 values", lambda: read_depth(tmp_path / "depth.npy", "npy", scale=1), None, "depth.npy")
    for name, content in {
        "a PNG of 20,000 x 20,000": bomb(20_000, 20_000),
        "a program for Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\nshowpage\n%%EOF\n",
    }.items():
        (tmp_path / "depth.png").write_bytes(content)
        counts.attempt(name, lambda: read_depth(tmp_path / "depth.png"), None, "depth.png")
    Image.fromarray(np.full(SIZE[::-1], 70_000, np.int32)).save(tmp_path / "depth.png", "TIFF")
    counts.attempt("more than 16 bits", lambda: read_depth(tmp_path / "depth.png"), None, "not 16 bits")
    Image.new("RGB", SIZE).save(tmp_path / "depth.png")
    counts.attempt("a colour picture", lambda: read_depth(tmp_path / "depth.png"), None, "cannot be read back")
    counts.check(least=34)


def test_an_index_that_is_no_table_is_refused(tally, tmp_path):
    counts = tally("index.csv that is no table")
    for number, content in enumerate(
        (
            b"",
            b"\xff\xfe\x00\x01",
            b"\0" * 100,
            b"rgb,depth\n" + b"a" * 200_000,
            b'"',
            b"\xef\xbb\xbf",
            b"PK\x03\x04",
            ",".join(REQUIRED_COLUMNS).encode(),
            (",".join(REQUIRED_COLUMNS) + "\n" + '"' * 99).encode(),
            (",".join(REQUIRED_COLUMNS) + "\n" + "a," * 99).encode(),
            (",".join(REQUIRED_COLUMNS) + "\n" + "x" * 140_000).encode(),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "index.csv").write_bytes(content)
        counts.attempt(repr(content[:20]), lambda folder=folder: RGBDFolder(folder), None, "index.csv")
    counts.check(least=11)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=st.sampled_from(REQUIRED_COLUMNS), text=st.text(max_size=30))
def test_any_text_in_any_column_is_read_inside_the_folder_or_refused(column, text, tally, tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("any"), num_pairs=1, **{column: text})

    def is_inside(dataset) -> bool:
        paths = [row[name] for row in dataset.rows for name in ("rgb", "depth")]
        return all(os.path.realpath(path).startswith(f"{os.path.realpath(folder)}{os.sep}") for path in paths)

    counts = tally("index.csv with any text in a cell")

    def call():
        dataset = RGBDFolder(folder, split=None)
        dataset[0]
        return dataset

    counts.attempt(f"{column}={text!r}", call, is_inside)
    counts.check(least=1)


def test_sizes_that_disagree_are_refused(tmp_path):
    folder = make_folder(tmp_path)
    write_raw(folder / "depth" / "0.png", 1500, (40, 6))
    with pytest.raises(ValueError, match=r"'rgb/0.png' is 8x6 but its depth map is 40x6"):
        RGBDFolder(folder)[0]


def test_sparse_depth_reaches_the_loss_unblended(tmp_path):
    """A LiDAR measures 0.2 % of the pixels; none is averaged with its missing neighbours."""
    write_photograph(tmp_path / "rgb" / "0.png", (400, 300))
    raw = sparse(0.002)
    write_raw(tmp_path / "depth" / "0.png", raw, (400, 300))
    write_index(tmp_path, [index_row(0)])
    sample = RGBDFolder(tmp_path)[0]
    model, processor = make_pair()
    batch = DepthCollator(processor)([sample])
    labels = batch["labels"][batch["labels"] > 0]
    assert set(np.round(1000 * labels.numpy()).astype(int)) <= set(raw[raw > 0].tolist())
    assert math.isfinite(model(**batch).loss.item())


def test_links_are_followed_and_a_link_to_itself_is_refused(tmp_path):
    """A Hub snapshot consists of links, so they are no escape: who made the folder made them."""
    make_folder(tmp_path / "real")
    linked = make_folder(tmp_path / "linked")
    (linked / "rgb" / "0.png").unlink()
    (linked / "rgb" / "0.png").symlink_to(tmp_path / "real" / "rgb" / "0.png")
    assert RGBDFolder(linked)[0].image.size == SIZE
    (linked / "rgb" / "1.png").unlink()
    (linked / "rgb" / "1.png").symlink_to(linked / "rgb" / "1.png")
    with pytest.raises(ValueError, match=r"not there, the first .*1\.png"):
        RGBDFolder(linked)


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read(tmp_path):
    folder = make_folder(tmp_path)
    with (folder / "index.csv").open("a", newline="") as lines:
        writer = csv.DictWriter(lines, (*REQUIRED_COLUMNS, "fx", "fy", "cx", "cy"))
        writer.writerows(index_row(index % 5) for index in range(100_000))
    dataset = load_depth_dataset(folder)
    assert len(dataset) == 100_005
    assert dataset[99_999].depth.max() == pytest.approx(1.5)
    assert len(dataset.few_shot(10, seed=1)) == 10


POISONS = {
    "labels of NaN": lambda batch: batch["labels"].fill_(math.nan),
    "labels of infinity": lambda batch: batch["labels"].fill_(math.inf),
    "labels below zero": lambda batch: batch["labels"].neg_(),
    "no label": lambda batch: batch["labels"].zero_(),
    "one label": lambda batch: batch["labels"].view(-1)[1:].zero_(),
    "labels in millimetres": lambda batch: batch["labels"].mul_(1000),
    "tiny labels": lambda batch: batch["labels"].mul_(1e-30),
    "pixels of NaN": lambda batch: batch["pixel_values"].fill_(math.nan),
    "one infinite pixel": lambda batch: batch["pixel_values"].view(-1)[5:6].fill_(math.inf),
    "huge pixels": lambda batch: batch["pixel_values"].mul_(1e30),
}


class PoisoningCollator(DepthCollator):
    """Spoils every second training batch, each in another way."""

    num_batches = 0

    def __call__(self, samples):
        batch = super().__call__(samples)
        self.num_batches += 1
        if self.num_batches % 2 == 0:
            poisons = list(POISONS.values())
            poisons[self.num_batches // 2 % len(poisons)](batch)
        return batch


@pytest.mark.slow
def test_200_steps_half_of_them_poisoned_learn_from_the_other_half(tally, tmp_path, caplog):
    """`one label` and `tiny labels` do count: they pull towards what they say, but not without bound."""
    from llm_mde.training import DepthTrainer, StreamingDepthMetrics

    pytest.importorskip("accelerate")
    model, processor = make_pair()
    frames = make_frames(16)
    set_seed(0)
    trainer = DepthTrainer(
        model=model,
        args=make_arguments(tmp_path, max_steps=200, learning_rate=1e-3, per_device_train_batch_size=4),
        train_dataset=frames,
        eval_dataset=frames,
        data_collator=DepthCollator(processor),
        compute_metrics=StreamingDepthMetrics(),
    )
    before = trainer.evaluate()
    trainer.data_collator = PoisoningCollator(processor)
    trainer.train()
    trainer.data_collator = DepthCollator(processor)
    after = trainer.evaluate()
    counts = tally("batches of a training, half of them poisoned")
    is_finite = all(bool(weight.isfinite().all()) for weight in model.state_dict().values())
    for _ in range(200):
        counts.count("handled" if is_finite else "wrong", "a weight is not finite")
    counts.check(least=200)
    assert after["eval_abs_rel"] < 0.7 * before["eval_abs_rel"], (before, after)
    state = trainer.optimizer.state_dict()["state"]
    assert all(torch.isfinite(each).all() for moments in state.values() for each in moments.values())
