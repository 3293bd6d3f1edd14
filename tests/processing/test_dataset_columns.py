"""Hub data sets by their columns, as local Parquet files: encoded images, arrays, scales, splits, streams."""

import io

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from llm_mde.processing import Intrinsics, load_depth_dataset

SIZE = (8, 6)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # A stream of Parquet files pauses for 5 s when it ends; oldest versions do without.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)


def encoded(array, kind="PNG", path=None):
    stored = io.BytesIO()
    Image.fromarray(array).save(stored, format=kind)
    return {"bytes": stored.getvalue(), "path": path}


def photograph(level):
    return np.full((SIZE[1], SIZE[0], 3), level, np.uint8)


def depth(value, dtype):
    return np.full(SIZE[::-1], value, dtype)


def write_hub(root, splits, features=None):
    """`splits` maps a split to its rows; files are named as the Hub names them."""
    root.mkdir(exist_ok=True)
    features = None if features is None else datasets.Features(features)
    for split, rows in splits.items():
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return root


IMAGES = {"image": datasets.Image(), "depth_map": datasets.Image()}


@pytest.fixture
def converted(tmp_path):
    """NYU Depth v2 as the Hub converts it: photographs as PNG, depth in metres as TIFF of 32 bits."""
    folder = tmp_path / "hub" / "default"
    for split, levels in {"partial-train": (1, 2, 3), "partial-validation": (4,)}.items():
        rows = [
            {"image": encoded(photograph(level)), "depth_map": encoded(depth(level + 0.25, np.float32), "TIFF")}
            for level in levels
        ]
        (folder / split).mkdir(parents=True)
        table = datasets.Dataset.from_list(rows, features=datasets.Features(IMAGES))
        table.to_parquet(folder / split / "0000.parquet")
    return tmp_path / "hub"


@pytest.mark.parametrize("streaming", [False, True])
def test_converted_nyu_comes_in_metres(converted, streaming):
    samples = list(load_depth_dataset(converted, depth_scale=1, streaming=streaming))
    assert [float(sample.depth[0, 0]) for sample in samples] == [1.25, 2.25, 3.25]
    assert [sample.image.getpixel((0, 0)) for sample in samples] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert {(sample.image.size, sample.depth.shape, sample.depth.dtype.name) for sample in samples} == {
        (SIZE, SIZE[::-1], "float32")
    }
    assert len({sample.name for sample in samples}) == 3


def test_splits_are_those_of_the_data(converted):
    assert load_depth_dataset(converted, split="validation", depth_scale=1).names == ["validation/000000"]
    assert len(load_depth_dataset(converted, split="train[:2]", depth_scale=1)) == 2
    tail = load_depth_dataset(converted, split="train[1:]", depth_scale=1)
    assert tail.names == load_depth_dataset(converted, split="train", depth_scale=1).names[1:]
    everything = load_depth_dataset(converted, split=None, depth_scale=1)
    assert everything.names == ["train/000000", "train/000001", "train/000002", "validation/000000"]
    assert everything.few_shot(2).few_shot(1).names == everything.few_shot(1).names
    with pytest.raises(ValueError, match=r"`split` is 'val'.*\['train', 'validation'\]"):
        load_depth_dataset(converted, split="val", depth_scale=1)
    streamed = load_depth_dataset(converted, split=None, depth_scale=1, streaming=True)
    assert [sample.depth[0, 0] for sample in streamed] == [1.25, 2.25, 3.25, 4.25]


def first(samples):
    return samples


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_read_each_row_of_a_file_once(converted, streaming):
    frames = load_depth_dataset(converted, depth_scale=1, streaming=streaming)
    loader = DataLoader(frames, batch_size=1, num_workers=2, collate_fn=first)
    assert sorted(float(sample.depth[0, 0]) for (sample,) in loader) == [1.25, 2.25, 3.25]


@pytest.mark.parametrize("num_files", [1, 2])
def test_nodes_share_streamed_arrays(tmp_path, num_files):
    features = {"image": datasets.Array3D((6, 8, 3), "uint8"), "depth": datasets.Array2D((6, 8), "float32")}
    (tmp_path / "hub").mkdir()
    for file in range(num_files):
        levels = range(1 + 3 * file, 4 + 3 * file)
        rows = [{"image": photograph(level), "depth": depth(level, np.float32)} for level in levels]
        table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        table.to_parquet(tmp_path / "hub" / f"train-{file:05d}-of-{num_files:05d}.parquet")
    stream = load_depth_dataset(tmp_path / "hub", depth_scale=1, streaming=True).shuffle(seed=0, buffer_size=2)
    samples = [sample for index in range(2) for sample in stream.shard(2, index)]
    assert sorted(float(sample.depth[5, 7]) for sample in samples) == list(range(1, 1 + 3 * num_files))
    assert all(sample.image.getpixel((7, 5))[0] == sample.depth[5, 7] for sample in samples)


def test_the_name_of_a_streamed_row_does_not_depend_on_its_place(converted):
    stream = load_depth_dataset(converted, depth_scale=1, streaming=True)
    by_depth = {float(sample.depth[0, 0]): sample.name for sample in stream}
    shuffled = {float(sample.depth[0, 0]): sample.name for sample in stream.shuffle(seed=2)}
    assert shuffled == by_depth


@pytest.mark.parametrize("streaming", [False, True])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, streaming):
    """Also where the data set's own features would have `datasets` convert them to eight."""
    row = {"image": encoded(photograph(9)), "depth_map": encoded(depth(40_000, np.uint16))}
    features = {"image": datasets.Image(mode="RGB"), "depth_map": datasets.Image(mode="L")}
    folder = write_hub(tmp_path / "hub", {"train": [row]}, features)
    (sample,) = load_depth_dataset(folder, depth_scale=0.001, streaming=streaming)
    assert (sample.depth == 40).all()


def test_arrays_of_either_order_are_photographs_and_depth(tmp_path):
    """As in a conversion with Array3D (3, H, W) in 0 ... 1 and depth (1, H, W); other columns are left alone."""
    row = {
        "picture": photograph(51).transpose(2, 0, 1).astype(np.float32) / 255,
        "distance": depth(2.5, np.float32)[None],
        "normal": np.zeros((3, 6, 8), np.float32),
        "fx": 500.0,
        "fy": 501.0,
        "cx": 4.0,
        "cy": 3.0,
    }
    features = {column: datasets.Value("float64") for column in ("fx", "fy", "cx", "cy")}
    features |= {"picture": datasets.Array3D((3, 6, 8), "float32"), "distance": datasets.Array3D((1, 6, 8), "float32")}
    features["normal"] = datasets.Array3D((3, 6, 8), "float32")
    unknown = [row | {"cx": None}, row | {"fx": 0.0, "fy": 0.0, "cx": 0.0, "cy": 0.0}]
    folder = write_hub(tmp_path / "hub", {"train": [row, *unknown]}, features)
    frames = load_depth_dataset(folder, depth_scale=1, image_column="picture", depth_column="distance")
    assert "normal" not in frames.rows.column_names
    assert frames[0].image.getpixel((7, 5)) == (51, 51, 51)
    assert (frames[0].depth == 2.5).all()
    assert frames[0].intrinsics == Intrinsics(fx=500, fy=501, cx=4, cy=3)
    assert frames[1].intrinsics is None
    assert frames[2].intrinsics is None


def test_nested_lists_and_wide_numbers_are_arrays_too(tmp_path):
    row = {"image": photograph(200).tolist(), "depth": depth(2500, np.int64).tolist()}
    folder = write_hub(tmp_path / "hub", {"train": [row]})
    (sample,) = load_depth_dataset(folder, depth_scale=0.001)
    assert sample.image.getpixel((0, 0)) == (200, 200, 200)
    assert (sample.depth == 2.5).all()


def test_floats_that_overshoot_one_stay_what_they_are(tmp_path):
    """Bicubic resampling leaves 1.02 beside an edge; taken for levels, the photograph would be black."""
    picture = np.full((6, 8, 3), 0.6, np.float32)
    picture[0, 0] = 1.02, -0.02, 0.0
    row = {"image": picture.tolist(), "depth": depth(1, np.float32).tolist()}
    (sample,) = load_depth_dataset(write_hub(tmp_path / "hub", {"train": [row]}), depth_scale=1)
    assert [sample.image.getpixel(place) for place in ((0, 0), (7, 5))] == [(255, 0, 0), (153, 153, 153)]


@pytest.mark.parametrize("wide", [False, True])
def test_grey_arrays_become_photographs(tmp_path, wide):
    row = {"image": photograph(7)[..., 0].astype(np.uint16 if wide else np.uint8), "depth": depth(1, np.float32)}
    features = {"image": datasets.Array2D((6, 8), "uint16" if wide else "uint8")}
    features["depth"] = datasets.Array2D((6, 8), "float32")
    (sample,) = load_depth_dataset(write_hub(tmp_path / "hub", {"train": [row]}, features), depth_scale=1)
    assert (sample.image.mode, sample.image.size, sample.image.getpixel((7, 5))) == ("RGB", SIZE, (7, 7, 7))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["binary", "struct", "bytes alone"])
def test_encoded_images_in_a_table_that_datasets_did_not_write_are_images(tmp_path, kind, streaming):
    row = {"image": encoded(photograph(9)), "depth": encoded(depth(40_000, np.uint16))}
    if kind == "binary":
        row = {column: cell["bytes"] for column, cell in row.items()}
    elif kind == "bytes alone":
        row = {column: {"bytes": cell["bytes"]} for column, cell in row.items()}
    (tmp_path / "hub").mkdir()
    table = pyarrow.Table.from_pylist([row])
    assert not table.schema.metadata
    pyarrow.parquet.write_table(table, tmp_path / "hub" / "train.parquet")
    (sample,) = load_depth_dataset(tmp_path / "hub", depth_scale=0.001, streaming=streaming)
    assert sample.image.getpixel((0, 0)) == (9, 9, 9)
    assert (sample.depth == 40).all()


K = [[500.0, 0.0, 4.0], [0.0, 501.0, 3.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize("column", ["intrinsics", "K"])
@pytest.mark.parametrize(
    ("cell", "is_known"), [(K, True), ([*K[0], *K[1], *K[2]], True), ([500.0, 501.0], False), (None, False)]
)
def test_a_column_of_camera_matrices_becomes_intrinsics(tmp_path, column, cell, is_known):
    row = {"image": photograph(1).tolist(), "depth": depth(1, np.float32).tolist(), column: cell}
    known = row | {column: K if cell is K else [1.0]}  # a column of nothing but null has no type
    frames = load_depth_dataset(write_hub(tmp_path / "hub", {"train": [row, known]}), depth_scale=1)
    assert frames[0].intrinsics == (Intrinsics(fx=500, fy=501, cx=4, cy=3) if is_known else None)


def test_missing_depth_is_zero_whatever_marks_it(tmp_path):
    values = depth(2.0, np.float32)
    values[0, :4] = np.nan, np.inf, -1, 0
    row = {"image": encoded(photograph(1)), "depth": values}
    features = {"image": datasets.Image(), "depth": datasets.Array2D((6, 8), "float32")}
    folder = write_hub(tmp_path / "hub", {"train": [row]}, features)
    assert load_depth_dataset(folder, depth_scale=1).depth(0)[0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]


def test_the_scale_is_required_and_checked(converted):
    with pytest.raises(ValueError, match=r"`depth_scale` is not given.*folder of Parquet files.*1 for metres"):
        load_depth_dataset(converted)
    with pytest.raises(ValueError, match=r"`depth_scale=0.001` .* 0.00225 m.* like metres: pass `depth_scale=1`"):
        load_depth_dataset(converted, depth_scale=0.001)
    assert load_depth_dataset(converted, depth_scale=0.001, check_units=False).depth(0)[0, 0] == np.float32(0.00125)


def test_a_wrong_column_is_refused_with_those_that_there_are(converted, tmp_path):
    with pytest.raises(ValueError, match=r"`image_column` is 'img'.*has the columns image, depth_map"):
        load_depth_dataset(converted, depth_scale=1, image_column="img")
    rows = [{"image": encoded(photograph(1)), "caption": "a room"}]
    features = {"image": datasets.Image(), "caption": datasets.Value("string")}
    folder = write_hub(tmp_path / "captions", {"train": rows}, features)
    with pytest.raises(ValueError, match=r"`depth_column` is 'depth or depth_map'.*the columns image, caption"):
        load_depth_dataset(folder, depth_scale=1)
    with pytest.raises(ValueError, match=r"`depth_column` is 'caption', which holds .*string"):
        load_depth_dataset(folder, depth_scale=1, depth_column="caption")


@pytest.mark.parametrize(
    ("image", "depth_map", "message"),
    [
        (encoded(photograph(1)), encoded(photograph(1)), "'train/000000': it has Pillow mode RGB, but depth has 16"),
        (encoded(photograph(1)), encoded(depth(9, np.uint8)), "mode L, but depth has 16 or 32 bits"),
        (encoded(photograph(1)), {"bytes": b"no image", "path": None}, "`depth_map` of .* not a readable image"),
        (encoded(depth(9, np.uint16)), encoded(depth(1, np.float32), "TIFF"), "a photograph has 8 bits"),
        (encoded(photograph(1)), encoded(np.ones((6, 9), np.float32), "TIFF"), "8x6 but its depth map is 9x6"),
    ],
)
def test_what_is_no_photograph_or_no_depth_is_refused(tmp_path, image, depth_map, message):
    folder = write_hub(tmp_path / "hub", {"train": [{"image": image, "depth_map": depth_map}]}, IMAGES)
    frames = load_depth_dataset(folder, depth_scale=1, check_units=False)
    with pytest.raises(ValueError, match=message):
        frames[0]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((6, 8, 3), -0.5), "values from -0.5"),
        (np.full((6, 8, 3), 300.0), "to 300"),
        (np.ones((6, 8, 4)), r"`image` of 'train/000000': it is .* of shape \(6, 8, 4\)"),
    ],
)
def test_other_arrays_are_no_photographs(tmp_path, picture, message):
    row = {"image": picture.astype(np.float32).tolist(), "depth": depth(1, np.float32).tolist()}
    folder = write_hub(tmp_path / "hub", {"train": [row]})
    with pytest.raises(ValueError, match=message):
        load_depth_dataset(folder, depth_scale=1)[0]


def test_an_array_of_two_depths_is_no_depth(tmp_path):
    row = {"image": photograph(1).tolist(), "depth": np.ones((2, 6, 8)).tolist()}
    folder = write_hub(tmp_path / "hub", {"train": [row]})
    with pytest.raises(ValueError, match=r"`depth` of 'train/000000': .*\(2, 6, 8\), but depth is"):
        load_depth_dataset(folder, depth_scale=1)


def test_a_stream_that_does_not_say_its_columns_is_refused(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.csv").write_text("image,depth\n1.png,2.png\n")
    with pytest.raises(ValueError, match="does not say its columns"):
        load_depth_dataset(folder, "hub", depth_scale=1, streaming=True)


def test_images_beside_their_table_are_read_by_their_paths(tmp_path):
    Image.fromarray(photograph(7)).save(tmp_path / "photograph.png")
    row = {"image": {"bytes": None, "path": str(tmp_path / "photograph.png")}}
    row["depth_map"] = encoded(depth(2, np.float32), "TIFF")
    table = datasets.Dataset.from_list([row]).cast(datasets.Features(IMAGES))
    (tmp_path / "hub").mkdir()
    pyarrow.parquet.write_table(table.data.table, tmp_path / "hub" / "train.parquet")
    assert load_depth_dataset(tmp_path / "hub", depth_scale=1)[0].image.getpixel((0, 0)) == (7, 7, 7)


def test_data_that_cannot_be_reached_is_refused_in_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match=r"'nobody/nothing', no folder .* nor can it be loaded"):
        load_depth_dataset("nobody/nothing", depth_scale=1)
    with pytest.raises(ValueError, match="'nobody/nothing' is no folder here, hence a Hub data set"):
        load_depth_dataset("nobody/nothing")

    def refuse_script(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found nyu_depth_v2.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse_script)
    with pytest.raises(ValueError, match=r"revision='refs/convert/parquet'.*--data_revision refs/convert/parquet"):
        load_depth_dataset("sayakpaul/nyu_depth_v2", depth_scale=1)


def test_configuration_and_revision_are_passed_on(converted, monkeypatch):
    load, seen = datasets.load_dataset, []

    def remember(source, config_name, split, revision, streaming):
        seen.append((source, config_name, split, revision, streaming))
        return load(str(converted), split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", remember)
    arguments = {"config_name": "default", "revision": "refs/convert/parquet", "streaming": True}
    load_depth_dataset("sayakpaul/nyu_depth_v2", depth_scale=1, **arguments)
    assert seen == [("sayakpaul/nyu_depth_v2", "default", "train", "refs/convert/parquet", True)]
