"""The metric as a module of the library `evaluate`, loaded from the package without a network."""

import weakref

import numpy as np
import pytest
import torch

from llm_mde.evaluation import EVALUATE_MODULE, DepthMetrics

evaluate = pytest.importorskip("evaluate")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`evaluate.load` with caches of its own."""
    monkeypatch.setattr("evaluate.loading.init_dynamic_modules", lambda: _dynamic_modules(tmp_path, monkeypatch))

    def load(*args, **kwargs):
        return evaluate.load(EVALUATE_MODULE, *args, cache_dir=str(tmp_path / "metrics"), **kwargs)

    return load


def _dynamic_modules(tmp_path, monkeypatch):
    folder = tmp_path / "evaluate_modules_of_a_test"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return str(folder)


def maps(count, height=12, width=16):
    generator = np.random.default_rng(0)
    labels = generator.uniform(1, 9, (count, height, width)).astype(np.float32)
    labels[:, 0] = 0
    return (labels * generator.uniform(0.8, 1.3, labels.shape) + 0.1).astype(np.float32), labels


def test_the_module_gives_the_numbers_of_the_class(load):
    predicted, labels = maps(5)
    expected = DepthMetrics(protocol="affine")
    expected.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    metric = load("affine")
    assert metric.compute(predictions=predicted, references=labels) == pytest.approx(expected.compute(), rel=1e-12)


def test_batches_and_single_images_add_up_and_compute_starts_anew(load):
    predicted, labels = maps(5)
    metric = load()
    whole = metric.compute(predictions=predicted, references=labels)
    metric.add_batch(predictions=predicted[:3], references=labels[:3])
    metric.add(prediction=torch.from_numpy(predicted[3]), reference=torch.from_numpy(labels[3]))
    assert len(metric) == 4
    metric.add(prediction=predicted[4].tolist(), reference=labels[4].tolist())
    assert metric.compute() == pytest.approx(whole, rel=1e-12)
    assert len(metric) == 0


def test_limits_and_boundaries_are_arguments_of_load(load):
    metric = load(max_depth=5.0, with_boundaries=True)
    result = metric.compute(predictions=[[[2.0, 3.0]]], references=[[[2.0, 6.0]]])
    assert result["abs_rel"] == 0.0
    assert result["num_images_with_boundaries"] == 0


def test_maps_of_different_sizes_are_one_list(load):
    metric = load()
    sizes = [(4, 5), (6, 3)]
    result = metric.compute(
        predictions=[np.full(size, 3.0) for size in sizes], references=[np.full(size, 2.0) for size in sizes]
    )
    assert (result["num_images"], result["abs_rel"]) == (2, 0.5)


def test_full_maps_are_measured_and_let_go(load):
    """Through the base class 80 maps of 480 x 640 take gigabytes; here none outlives its `add` or enters a table."""
    metric = load("nyu-eigen")
    references = []
    for _ in range(3):
        labels = np.full((480, 640), 2.0, dtype=np.float32)
        predicted = 1.5 * labels
        metric.add(prediction=predicted, reference=labels)
        references += [weakref.ref(labels), weakref.ref(predicted)]
        del labels, predicted
        assert [reference() for reference in references] == [None] * len(references)
    assert metric.writer is None
    assert metric.compute()["abs_rel"] == pytest.approx(0.5)


def test_what_the_module_cannot_do_is_refused(load):
    with pytest.raises(ValueError, match="`num_process` is 2"):
        load(num_process=2)
    with pytest.raises(ValueError, match="`protocol` is 'nyu'"):
        load("nyu")
    metric = load()
    with pytest.raises(ValueError, match="as many maps"):
        metric.add_batch(predictions=np.ones((2, 3, 3)), references=np.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"`prediction` has shape \(1, 3, 3\)"):
        metric.add(prediction=np.ones((1, 3, 3)), reference=np.ones((3, 3)))
