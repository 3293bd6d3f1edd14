"""An exported folder as a predictor for the package's own evaluation."""

import pytest
import torch

from llm_mde.evaluation import evaluate_depth
from llm_mde.export import ExportedModel
from llm_mde.processing import DepthSample
from tests.conftest import make_pair
from tests.export.conftest import make_photographs


@pytest.mark.slow
def test_the_evaluation_measures_of_the_folder_what_it_measures_of_the_model(exported):
    samples = [
        DepthSample(image, torch.linspace(0.5, 5, image.width).expand(image.height, -1).numpy(), None, str(index))
        for index, image in enumerate(make_photographs(3))
    ]
    model, processor = make_pair()
    expected = evaluate_depth(model, processor, samples, progress=False).metrics
    measured = evaluate_depth(None, None, samples, progress=False, predict=ExportedModel(exported("torch"))).metrics
    assert measured == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_reading_a_folder_leaves_nothing_in_it(exported):
    before = sorted(exported("torch").rglob("*"))
    ExportedModel(exported("torch"), num_threads=1)
    assert sorted(exported("torch").rglob("*")) == before


def test_a_folder_that_was_not_exported_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no export\.json"):
        ExportedModel(tmp_path)
