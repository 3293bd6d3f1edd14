"""From a model and a set of photographs to numbers for each image."""

import json
import math
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde.evaluation import DepthMetrics, EvaluationResult, evaluate_depth, get_protocol, predict_depth
from llm_mde.processing import DepthSample
from tests.conftest import make_pair
from tests.evaluation.conftest import make_sample, make_samples


def quietly(*args, **kwargs):
    return evaluate_depth(*args, progress=False, **kwargs)


def constant(depth):
    return lambda images: [torch.full((2, 3), depth) for _ in images]


def test_means_are_those_of_the_metrics_and_rows_those_of_the_images():
    samples = make_samples(3)
    result = quietly(None, None, samples, predict=constant(5.0))
    metrics = DepthMetrics(with_boundaries=True)
    for sample in samples:
        labels = torch.from_numpy(sample.depth)
        metrics.update(torch.full_like(labels, 5.0), labels)
    assert result.metrics == pytest.approx(metrics.compute(), rel=1e-12)
    assert [(row["index"], row["name"]) for row in result.per_image] == [(i, f"rgb/{i}.png") for i in range(3)]
    assert result.per_image[0]["num_pixels"] == int((samples[0].depth > 0).sum())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_is_measured_on_what_it_predicts_whatever_the_batch(batch_size):
    model, processor = make_pair()
    model.train()
    model.vision_tower.eval()
    samples = [*make_samples(3), make_sample(np.full((40, 30), 2.0), name="portrait.png")]
    expected = []
    for sample in samples:
        depth = predict_depth(deepcopy(model).eval(), processor, [sample.image])
        size = tuple(sample.depth.shape)
        depth = torch.nn.functional.interpolate(depth[:, None].double(), size=size, mode="bilinear")[0, 0]
        measured = sample.depth > 0
        expected.append(np.mean(np.abs(depth.numpy() - sample.depth)[measured] / sample.depth[measured]))
    result = quietly(model, processor, samples, batch_size=batch_size)
    assert [row["abs_rel"] for row in result.per_image] == pytest.approx(expected, rel=1e-5)
    assert model.training and not model.vision_tower.training  # as they were
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_measured(dtype):
    model, processor = make_pair()
    samples = make_samples(2)
    full = quietly(model, processor, samples).metrics["abs_rel"]
    assert quietly(model.to(dtype), processor, samples).metrics["abs_rel"] == pytest.approx(full, rel=0.02)


def test_every_size_of_photograph_gets_a_batch_of_its_own():
    seen = []

    def predict(images):
        seen.append([image.size for image in images])
        return [torch.ones(image.height, image.width) for image in images]

    sizes = [(4, 6), (4, 6), (4, 6), (5, 5), (4, 6)]
    quietly(None, None, [make_sample(np.full(size, 2.0)) for size in sizes], predict=predict, batch_size=2)
    assert seen == [[(6, 4), (6, 4)], [(6, 4)], [(5, 5)], [(6, 4)]]


def test_flip_averaging_is_the_mean_with_the_mirrored_photograph():
    """The predictor reads brightness and adds a ramp: mirroring turns the ramp, not what the pixels say."""
    image = Image.fromarray(np.array([[[10] * 3, [30] * 3]], dtype=np.uint8))
    sample = DepthSample(image=image, depth=np.array([[1, 1]], dtype=np.float32), intrinsics=None, name="two")
    seen = []

    def predict(images):
        brightness = [torch.tensor(np.asarray(image)[..., 0] / 10, dtype=torch.float32) for image in images]
        return [each + torch.tensor([[0.0, 2.0]]) for each in brightness]

    protocol = get_protocol("plain", flip_averaging=True)
    quietly(
        None, None, [sample], protocol, predict=predict, on_image=lambda sample, matched, row: seen.append(matched)
    )
    # Seen: 1 + 0, 3 + 2. Mirrored photograph: 3 + 0, 1 + 2, turned back 3, 3. Mean: 2, 4.
    assert seen[0].predicted.tolist() == [[[2.0, 4.0]]]


def test_flip_averaging_works_with_a_model():
    model, processor = make_pair()
    samples = make_samples(2)
    once = quietly(model, processor, samples)
    both = quietly(model, processor, samples, get_protocol("plain", flip_averaging=True))
    assert both.metrics["rmse"] != once.metrics["rmse"]
    assert both.metrics["rmse"] == pytest.approx(once.metrics["rmse"], rel=0.2)


def test_the_callback_gets_each_image_as_it_was_compared():
    seen = {}

    def on_image(sample, matched, row):
        seen[sample.name] = matched.predicted[0, 0, 0].item(), row["abs_rel"]

    samples = [make_sample(np.full((3, 4), depth), name=f"{depth}") for depth in (2.0, 4.0)]
    quietly(None, None, samples, get_protocol("plain", alignment="median"), predict=constant(8.0), on_image=on_image)
    assert seen == {"2.0": (2.0, 0.0), "4.0": (4.0, 0.0)}


def test_images_without_a_valid_pixel_have_a_row_and_enter_no_mean():
    samples = [make_sample(np.full((3, 4), depth), name=f"{depth}") for depth in (0.0, 2.0)]
    result = quietly(None, None, samples, predict=constant(3.0))
    assert math.isnan(result.per_image[0]["abs_rel"])
    assert (result.metrics["num_images"], result.metrics["num_skipped_images"]) == (1, 1)
    assert result.metrics["abs_rel"] == 0.5
    with pytest.raises(ValueError, match="no image with a valid pixel"):
        quietly(None, None, samples[:1], predict=constant(3.0))


def test_a_stream_without_length_or_indices_will_do():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(make_samples(3))

    per_image = quietly(None, None, make_samples(3), predict=constant(5.0)).per_image
    assert quietly(None, None, Stream(), predict=constant(5.0)).per_image == per_image


def rows(*values, name="abs_rel"):
    protocol = get_protocol("plain")
    other = dict.fromkeys(("sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3"), 0.0)
    images = [{"index": i, "name": str(i), "num_pixels": 1, **other, name: value} for i, value in enumerate(values)]
    return EvaluationResult(protocol, False, images)


def test_intervals_contain_the_mean_repeat_and_narrow_with_more_images():
    values = np.random.default_rng(0).uniform(0, 1, 400)
    few, many = rows(*values[:25]), rows(*values)
    for result in (few, many):
        lower, upper = result.intervals()["abs_rel"]
        assert lower < result.metrics["abs_rel"] < upper
    assert few.intervals() == few.intervals(seed=0)
    assert few.intervals() != few.intervals(seed=1)
    # The standard error of a mean of n uniform numbers is 1 / sqrt(12 n); an interval is about 3.92 of them.
    assert many.intervals()["abs_rel"][1] - many.intervals()["abs_rel"][0] == pytest.approx(
        3.92 / math.sqrt(12 * 400), rel=0.1
    )


def test_the_interval_of_one_image_is_its_number():
    assert rows(0.25).intervals(num_resamples=10)["abs_rel"] == (0.25, 0.25)


def test_the_interval_of_two_images_reaches_from_one_to_the_other():
    """Drawn twice from {0, 1}: both 0 with probability 1/4, both 1 alike: 2.5 % and 97.5 % are the extremes."""
    assert rows(0.0, 1.0).intervals()["abs_rel"] == (0.0, 1.0)


def test_wrong_arguments_are_refused():
    model, processor = make_pair()
    samples = make_samples(1)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        quietly(model, processor, samples, batch_size=0)
    with pytest.raises(ValueError, match="`dataset` is empty"):
        quietly(model, processor, [])
    with pytest.raises(ValueError, match="`model` or `processor` is None"):
        quietly(model, None, samples)
    with pytest.raises(ValueError, match="`num_resamples` is 0"):
        rows(1.0).intervals(num_resamples=0)
    with pytest.raises(ValueError, match=r"'rgb/0.png': .*not positive"):
        quietly(None, None, samples, predict=constant(-1.0))
    with pytest.raises(ValueError, match=r"24 x 32"):
        quietly(model, processor, samples, "nyu-eigen")


def test_a_model_of_relative_depth_needs_an_alignment():
    model, processor = make_pair(depth_estimation_type="relative")
    samples = make_samples(1)
    with pytest.raises(ValueError, match='alignment="median"'):
        quietly(model, processor, samples)
    result = quietly(model, processor, samples, get_protocol("plain", alignment="median"))
    assert result.metrics["num_images"] == 1


TWO_PROCESSES = """
import json, sys
import torch
from llm_mde.evaluation import evaluate_depth
from tests.evaluation.conftest import make_samples

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
seen = []

def predict(images):
    return [torch.full((2, 3), 5.0) for _ in images]

result = evaluate_depth(
    None, None, make_samples(5), batch_size=2, predict=predict, on_image=lambda sample, *_: seen.append(sample.name)
)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump([result.per_image, seen], file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs the gloo backend of torch.distributed")
def test_two_processes_share_the_images_and_return_all_rows(tmp_path):
    root = Path(__file__).parent.parent.parent  # where `tests` can be imported
    command = [sys.executable, "-c", TWO_PROCESSES]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=root) for rank in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    alone = quietly(None, None, make_samples(5), predict=constant(5.0)).per_image
    seen = []
    for rank in range(2):
        per_image, own = json.loads((tmp_path / f"{rank}.json").read_text())
        assert per_image == alone
        seen.append(own)
    assert seen == [["rgb/0.png", "rgb/2.png", "rgb/4.png"], ["rgb/1.png", "rgb/3.png"]]


def test_a_model_of_another_kind_is_measured_by_its_own_post_processing_alone():
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, out_indices=[1, 2, 3, 4]
    )
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8
    )
    model = DepthAnythingForDepthEstimation(config)
    with pytest.raises(ValueError, match=r"`model` is of the type 'depth_anything', .* pass a `predict`"):
        quietly(model, make_pair()[1], make_samples(1))
