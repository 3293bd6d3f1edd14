"""A release like the authors' is loaded as it runs, without downloads, and leaves nothing behind."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.authors import Authors
from benchmarks.contenders import FULL_PROMPT_LENGTH
from benchmarks.steps import make_labels, prepare_training

RELEASE = """
import timm
import torch
from depth import clip
from depth.layers.scaling import widen
from transformers import BertConfig, BertModel, BertTokenizer


class Language4Depth(torch.nn.Module):
    def __init__(self, configs, prompt, LoRA):
        super().__init__()
        config = BertConfig.from_pretrained("google-bert/bert-base-uncased")
        config.num_hidden_layers, config.hidden_size, config.intermediate_size = configs.llm_layers, 24, 8
        self.model = BertModel.from_pretrained("google-bert/bert-base-uncased", config=config, local_files_only=True)
        self.tokenizer = BertTokenizer.from_pretrained("google-bert/bert-base-uncased", trust_remote_code=True)
        self.vision = timm.create_model("resnet10t", pretrained=True)
        self.convolution = torch.nn.Conv2d(3, 1, 1)

    def forward(self, x):
        ids = self.tokenizer(["one prompt"] * len(x), return_tensors="pt", padding=True, max_length=2048).input_ids
        self.num_tokens = ids.shape[1]
        return widen(self.convolution(x)).sigmoid()
"""


@pytest.fixture
def release(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "release"
    (folder / "depth" / "layers").mkdir(parents=True)  # like the release's, without an __init__.py
    (folder / "LanguageMono.py").write_text(RELEASE)
    (folder / "depth" / "__init__.py").write_text("")
    (folder / "depth" / "layers" / "scaling.py").write_text("def widen(values):\n    return 2 * values\n")
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "loralib.py").write_text("")
    monkeypatch.syspath_prepend(packages)
    return folder


def test_a_release_is_built_without_downloads_and_reads_310_tokens(release):
    before, path = set(sys.modules), list(sys.path)
    authors = Authors(release)
    authors.build()
    module = authors.build()  # a second time, as in every section
    depth = module(**authors.inputs((32, 64), 2))
    assert depth.shape == (2, 1, 32, 64)
    assert module.num_tokens == FULL_PROMPT_LENGTH
    assert module.model.config.num_hidden_layers == 4
    assert sys.path == path
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("LanguageMono", "depth")}
    with pytest.raises(OSError):
        type(module.model).from_pretrained("google-bert/bert-base-uncased")  # patched only while it was built


def test_the_release_trains_all_its_weights_without_clipping(release):
    authors = Authors(release)
    training = prepare_training(authors)
    before = training.module.convolution.weight.detach().clone()
    training.step(authors.inputs((32, 32), 2), make_labels((32, 32), 2))
    assert training.max_norm is None
    assert not torch.equal(training.module.convolution.weight, before)


def test_a_folder_without_the_release_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no LanguageMono.py; give a clone"):
        Authors(tmp_path)


def test_the_package_it_needs_is_named(release, monkeypatch):
    monkeypatch.setattr("benchmarks.authors.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install loralib"):
        Authors(release)
