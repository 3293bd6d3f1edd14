"""Map-style and streaming data sets: laziness, few-shot subsets, shards, workers, memory."""

import multiprocessing
import os
import pickle
from collections import Counter

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

from llm_mde.processing import (
    DepthDataset,
    RGBDFolder,
    StreamingDepthDataset,
    depth_report,
    load_depth_dataset,
    median_depth,
)
from tests.processing.data_folders import index_row, write_index, write_pairs, write_photograph, write_raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One hundred pairs, at 1.01 m to 2.00 m."""
    root = tmp_path_factory.mktemp("frames")
    for number in range(1, 101):
        write_pairs(root, [f"{number:03d}"], metres=1 + number / 100)
    return root


def first(samples):
    """A collate function that keeps the list; DataLoaders pickle it by name."""
    return samples


def names_of(samples):
    return [sample.name for sample in samples]


def test_a_selection_keeps_its_order_and_counts_from_the_end(folder):
    chosen = RGBDFolder(folder, split=None).select([3, -1, 0])
    assert names_of(chosen) == chosen.names == ["rgb/004.png", "rgb/100.png", "rgb/001.png"]
    assert chosen.depth(1)[0, 0] == 2
    assert isinstance(chosen, DepthDataset)


def test_few_shots_lie_inside_more_shots(folder):
    frames = RGBDFolder(folder, split=None)
    ten, fifty = frames.few_shot(10, seed=3), frames.few_shot(50, seed=3)
    assert (len(ten), len(fifty)) == (10, 50)
    assert set(ten.names) < set(fifty.names)
    assert fifty.few_shot(10, seed=3).names == ten.names
    assert ten.names == sorted(ten.names)


def test_few_shots_depend_on_the_seed_and_the_names_alone(folder):
    frames = RGBDFolder(folder, split=None)
    assert frames.few_shot(10, seed=0).names == frames.select(range(99, -1, -1)).few_shot(10, seed=0).names[::-1]
    assert frames.few_shot(10, seed=0).names != frames.few_shot(10, seed=1).names
    # `sha256sum` ranks "0:rgb/009.png", "0:rgb/004.png" and "0:rgb/086.png" first of the hundred.
    assert frames.few_shot(3).names == ["rgb/004.png", "rgb/009.png", "rgb/086.png"]


def test_every_sample_is_drawn_about_equally_often(folder):
    frames = RGBDFolder(folder, split=None)
    counts = Counter(name for seed in range(200) for name in frames.few_shot(10, seed).names)
    # 200 draws with probability 0.1: mean 20, standard deviation 4.2; five deviations to each side.
    assert len(counts) == 100
    assert all(abs(count - 20) < 22 for count in counts.values())


def test_a_share_is_a_number_of_shots(folder):
    frames = RGBDFolder(folder, split=None)
    assert frames.few_shot(0.05).names == frames.few_shot(5).names
    assert len(frames.few_shot(0.0001)) == 1


@pytest.mark.parametrize("shots", [0, -1, 101, 0.0, 1.0, 10.0])
def test_impossible_shots_are_refused(folder, shots):
    with pytest.raises(ValueError, match=f"`shots` is {shots}"):
        RGBDFolder(folder, split=None).few_shot(shots)


def test_shards_are_disjoint_and_together_everything(folder):
    frames = RGBDFolder(folder, split=None)
    shards = [frames.shard(3, index).names for index in range(3)]
    assert [name for names in shards for name in names] == frames.names
    assert [len(names) for names in shards] == [34, 33, 33]
    with pytest.raises(ValueError, match="`index` is 3"):
        frames.shard(3, 3)


def test_the_report_is_of_the_set_it_belongs_to(folder):
    frames = RGBDFolder(folder, split=None)
    # 32 of 0 ... 99, evenly spaced: first and last are there, and the spacing is symmetric about 1.505 m.
    assert frames.report.num_samples == 32
    assert (frames.report.nearest, frames.report.farthest) == pytest.approx((1.01, 2.0))
    assert frames.report.median == pytest.approx(1.505, abs=1e-3)
    assert frames.select([0]).report.median == pytest.approx(1.01)


def test_report_and_median_leave_photographs_closed(tmp_path):
    write_pairs(tmp_path, ["1", "2", "3"], metres=2)
    for path in (tmp_path / "rgb").iterdir():
        path.write_bytes(b"not a picture")
    for streaming in (False, True):
        frames = load_depth_dataset(tmp_path, split=None, streaming=streaming)
        assert frames.report.median == median_depth(frames) == 2


def test_a_pickled_dataset_reads_the_same(folder):
    frames = RGBDFolder(folder, split=None).few_shot(5)
    again = pickle.loads(pickle.dumps(frames))
    assert again.names == frames.names
    assert np.array_equal(again[4].depth, frames[4].depth)


def test_workers_of_a_loader_read_each_sample_once(folder):
    frames = RGBDFolder(folder, split=None)
    loader = DataLoader(frames, batch_size=8, num_workers=2, collate_fn=first)
    assert [name for batch in loader for name in names_of(batch)] == frames.names


def test_a_stream_gives_what_the_map_gives(folder):
    stream = load_depth_dataset(folder, split=None, streaming=True)
    assert isinstance(stream, StreamingDepthDataset)
    for streamed, sample in zip(stream, RGBDFolder(folder, split=None), strict=True):
        assert streamed.name == sample.name
        assert np.array_equal(streamed.depth, sample.depth)
        assert np.array_equal(np.asarray(streamed.image), np.asarray(sample.image))


@pytest.mark.parametrize("take", [None, 7])
def test_workers_share_a_stream_without_duplicates(folder, take):
    stream = load_depth_dataset(folder, split=None, streaming=True)
    stream = stream if take is None else stream.take(take)
    loader = DataLoader(stream, batch_size=4, num_workers=2, collate_fn=first)
    names = [name for batch in loader for name in names_of(batch)]
    assert len(names) == len(set(names)) == (take or 100)


@pytest.mark.parametrize("num_shards", [2, 3])
def test_nodes_share_a_shuffled_stream_without_duplicates(folder, num_shards):
    stream = load_depth_dataset(folder, split=None, streaming=True).shuffle(seed=1, buffer_size=10)
    names = [name for index in range(num_shards) for name in names_of(stream.shard(num_shards, index))]
    assert sorted(names) == RGBDFolder(folder, split=None).names


def test_a_shuffled_stream_has_another_order_in_each_epoch_and_repeats_with_its_seed(folder):
    def order(epoch, seed=0):
        stream = load_depth_dataset(folder, split=None, streaming=True).shuffle(seed, buffer_size=20)
        stream.set_epoch(epoch)
        return names_of(stream)

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)
    assert sorted(order(1)) == RGBDFolder(folder, split=None).names


def test_a_stream_is_cut_to_its_first_samples(folder):
    stream = load_depth_dataset(folder, split=None, streaming=True)
    assert names_of(stream.take(2)) == ["rgb/001.png", "rgb/002.png"]
    assert stream.take(2).report.num_samples == 2


NUM_SAMPLES = 4_000


def largest_growth(folder, options):
    """Megabytes of resident memory over those after the first 1,000 samples, and how many samples there were."""
    import psutil

    growth, start, count = 0.0, None, 0
    for sample in load_depth_dataset(folder, **options):
        assert sample.depth[0, 0] == 1
        count += 1
        if count % 500 == 0:
            resident = psutil.Process().memory_info().rss / 2**20
            start = resident if count == 1_000 else start
            growth = growth if start is None else max(growth, resident - start)
    return growth, count


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["files", "parquet"])
def test_memory_stays_within_16_megabytes_over_four_thousand_samples(kind, streaming, tmp_path, monkeypatch):
    """Samples kept after the first 1,000 would take 64 MB: 64 x 48 pixels of 3 bytes of colour and 4 of depth."""
    pytest.importorskip("psutil", reason="accelerate brings psutil, which measures resident memory")
    size = (64, 48)
    photograph = write_photograph(tmp_path / "files" / "rgb" / "1.png", size)
    depth_map = write_raw(tmp_path / "files" / "depth" / "1.png", 1000, size)
    options = {"streaming": streaming}
    if kind == "files":
        write_index(tmp_path / "files", [index_row("1")] * NUM_SAMPLES)
    else:
        options["depth_scale"] = 0.001
        row = {"image": {"bytes": photograph.read_bytes(), "path": None}}
        row["depth"] = {"bytes": depth_map.read_bytes(), "path": None}
        features = datasets.Features({"image": datasets.Image(), "depth": datasets.Image()})
        (tmp_path / "parquet").mkdir()
        table = datasets.Dataset.from_list([row] * NUM_SAMPLES, features=features)
        table.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # In a process of its own: here, memory that other tests have freed could be filled again unnoticed.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        growth, count = pool.apply(largest_growth, (tmp_path / kind, options))
    assert count == NUM_SAMPLES
    assert growth < 16


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
def test_few_shot_sets_of_real_frames_are_nested_and_plausible():
    frames = load_depth_dataset(os.environ["LLM_MDE_DATA"], split="train", dataset="nyu_v2")
    assert 1.5 < frames.report.median < 4
    assert frames.report.farthest < 10.1
    assert frames.report.valid_share > 0.99
    ten, fifty, share = frames.few_shot(10, seed=3), frames.few_shot(50, seed=3), frames.few_shot(0.5, seed=3)
    assert set(ten.names) < set(fifty.names) < set(share.names) < set(frames.names)
    assert len(share) == round(len(frames) / 2)
    assert 0.7 < depth_report(ten).median < 6
    sample = ten[0]
    assert sample.image.size == (640, 480)
    assert sample.depth.shape == (480, 640)
    assert sample.intrinsics is not None
