"""Adapters on the Hub: every route gives the depth they were trained to; what does not fit is refused unharmed."""

import json
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from packaging.version import Version
from PIL import Image
from transformers import AutoModelForDepthEstimation, pipeline

from llm_mde import LLMMDEDepthEstimationPipeline, LLMMDEForDepthEstimation, LLMMDEProcessor
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.training import add_lora, lora_config
from tests.conftest import make_pair
from tests.hub.conftest import hub_environment

pytest.importorskip("peft")


def train(base_folder, folder, processor, dtype, seed):
    """Writes an adapter with arbitrary weights, exact in bfloat16, and returns the model that has them."""
    torch.manual_seed(seed)
    model = LLMMDEForDepthEstimation.from_pretrained(base_folder)
    model = add_lora(model, lora_config(model, vision_rank=4, language_rank=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.bfloat16())
    rename_base(write_adapter_folder(folder, model, processor, dtype))
    return model


def rename_base(folder, base="tester/base", revision="v1"):
    file = folder / "adapter_config.json"
    changes = {"base_model_name_or_path": base, "revision": revision}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of a base, of what it became later, and of two adapters on the first, with what they predict."""
    folder = tmp_path_factory.mktemp("adapters")
    model, processor = make_pair()
    write_model_folder(folder / "base", model, processor)
    later, _ = make_pair(max_depth=20.0)
    with torch.no_grad():
        for parameter in later.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    write_model_folder(folder / "later", later, processor)

    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    image.save(folder / "photo.png")
    for seed, (name, dtype) in enumerate({"indoor": "float32", "street": "bfloat16"}.items()):
        # Trained on larger pictures than its base: whose processor is taken shows in the depth.
        own = LLMMDEProcessor.from_pretrained(folder / "base")
        own.image_processor.size = {"height": 40, "width": 40}
        trained = train(folder / "base", folder / name, own, dtype, seed)
        own = LLMMDEProcessor.from_pretrained(folder / name)
        inputs = own(images=image, return_tensors="pt")
        assert inputs["pixel_values"].shape[-2:] == (40, 40)
        with torch.no_grad():
            outputs = trained(**inputs)
        (result,) = own.post_process_depth_estimation(outputs, target_sizes=[(40, 60)])
        np.save(folder / f"{name}.npy", result["predicted_depth"].numpy())
    return folder


@pytest.fixture
def published(made, hub_server):
    """The same as repositories; the main branch of the base has moved on since the tag that the adapters name."""
    api = HfApi(endpoint=hub_server.url, token=hub_server.token)
    for name in ("base", "indoor", "street"):
        api.create_repo(f"tester/{name}")
        api.upload_folder(repo_id=f"tester/{name}", folder_path=made / name)
    api.create_tag("tester/base", tag="v1")
    api.upload_folder(repo_id="tester/base", folder_path=made / "later", delete_patterns="*")
    return hub_server


ROUTES = """
import sys
from_package = sys.argv[1] == "package"
if not from_package:
    sys.modules["llm_mde"] = None  # as if it were not installed
import json, logging
import numpy as np, torch
from PIL import Image
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from transformers import AutoModel, AutoModelForDepthEstimation, AutoProcessor, pipeline
if from_package:
    import llm_mde
    from llm_mde.hub import load_model_and_processor

folder, errors = sys.argv[2], {}
remote = {"trust_remote_code": True}
image = Image.open(f"{folder}/photo.png")

def compare(route, name, depth):
    expected = np.load(f"{folder}/{name}.npy")
    errors[f"{route} {name}"] = float((np.abs(depth.float().numpy() - expected) / expected).max())

def predict(model, processor):
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[(40, 60)])
    return result["predicted_depth"]

def load_base():
    return AutoModelForDepthEstimation.from_pretrained("tester/base", revision="v1", **remote)

for name in ("indoor", "street"):
    adapter = f"tester/{name}"
    processor = AutoProcessor.from_pretrained(adapter, **remote)
    routes = {
        "PeftModel": lambda: PeftModel.from_pretrained(load_base(), adapter).eval(),
        "AutoModelForDepthEstimation": lambda: AutoModelForDepthEstimation.from_pretrained(adapter, **remote),
        "AutoModel": lambda: AutoModel.from_pretrained(adapter, **remote),
        "AutoPeftModel": lambda: AutoPeftModelForFeatureExtraction.from_pretrained(adapter, **remote).eval(),
        "from_pretrained": lambda: type(load_base()).from_pretrained(adapter),
    }
    for route, load in routes.items():
        compare(route, name, predict(load(), processor))
    base = load_base()
    base.load_adapter(adapter)
    compare("load_adapter", name, predict(base, processor))
    estimate = pipeline("depth-estimation", model=adapter, device="cpu", **remote)
    compare("pipeline", name, estimate(image)["predicted_depth"])
    if from_package:
        compare("load_model_and_processor", name, predict(*load_model_and_processor(adapter, device="cpu")))

assert from_package or "llm_mde" not in {name for name, module in sys.modules.items() if module is not None}
print(json.dumps(errors))
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", ["package", "remote"])
def test_every_route_gives_the_depth_that_the_adapter_was_trained_to(code, made, published, tmp_path):
    """Also with its own processor, on the revision of the base that it names, stored in either type."""
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ROUTES), code, str(made)],
        capture_output=True,
        text=True,
        env=hub_environment(published, tmp_path),
        check=False,
    )
    assert process.returncode == 0, process.stderr
    errors = json.loads(process.stdout.splitlines()[-1])
    assert len(errors) == 2 * (8 if code == "package" else 7)
    assert {route: error for route, error in errors.items() if error > 1e-5} == {}


def depth_of(model):
    pixel_values = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(pixel_values=pixel_values).predicted_depth


AUTO_ROUTES = {
    "AutoModelForDepthEstimation": AutoModelForDepthEstimation.from_pretrained,
    "from_pretrained": LLMMDEForDepthEstimation.from_pretrained,
    "load_model_and_processor": lambda name: load_model_and_processor(name, device="cpu")[0],
    "pipeline": lambda name: (
        pipeline("depth-estimation", model=name, pipeline_class=LLMMDEDepthEstimationPipeline, device="cpu").model
    ),
}


def upload(hub, name, folder):
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(f"tester/{name}", exist_ok=True)
    api.upload_folder(repo_id=f"tester/{name}", folder_path=folder)
    return f"tester/{name}"


def copy_of(folder, place):
    shutil.copytree(folder, place)
    return place


@pytest.mark.parametrize("route", AUTO_ROUTES)
def test_an_adapter_that_pins_no_revision_is_refused_when_its_base_has_moved_on(route, made, published, tmp_path):
    """All shapes fit, but the base has other weights now."""
    folder = copy_of(made / "indoor", tmp_path / "unpinned")
    rename_base(folder, revision=None)
    name = upload(published, "unpinned", folder)
    with pytest.raises(ValueError, match=f"(?s)The adapter '{name}' was trained on other weights .*'tester/base'"):
        AUTO_ROUTES[route](name)


@pytest.mark.parametrize("route", AUTO_ROUTES)
def test_an_adapter_for_another_number_of_prototypes_is_refused_with_both_shapes(route, made, published, tmp_path):
    upload(published, "larger", write_model_folder(tmp_path / "larger", *make_pair(num_prototypes=11)))
    folder = copy_of(made / "indoor", tmp_path / "misnamed")
    rename_base(folder, "tester/larger", revision=None)
    name = upload(published, "misnamed", folder)
    message = (
        rf"(?s)The adapter '{name}' does not fit this model: 'text_prototypes\.weight' is \(10, 32\) in the adapter "
        r"and \(11, 32\) in the model; .* Load it on the base it was made for, 'tester/larger', or train another"
    )
    with pytest.raises(ValueError, match=message):
        AUTO_ROUTES[route](name)


def test_a_revision_of_the_adapter_itself_can_be_chosen(made, published):
    api = HfApi(endpoint=published.url, token=published.token)
    api.create_tag("tester/indoor", tag="paper")
    api.upload_folder(repo_id="tester/indoor", folder_path=made / "street", delete_patterns="*")
    # The tag is of the adapter, which the base does not have.
    options = {"adapter_kwargs": {"revision": "paper"}}
    chosen = AutoModelForDepthEstimation.from_pretrained("tester/indoor", **options)
    latest = AutoModelForDepthEstimation.from_pretrained("tester/indoor")
    indoor = LLMMDEForDepthEstimation.from_pretrained(made / "base")
    indoor.load_adapter("tester/indoor", **options)
    street = LLMMDEForDepthEstimation.from_pretrained(made / "base")
    street.load_adapter(str(made / "street"))
    assert torch.equal(depth_of(chosen), depth_of(indoor))
    assert torch.equal(depth_of(latest), depth_of(street))
    assert not torch.equal(depth_of(chosen), depth_of(latest))
    assert torch.equal(
        depth_of(LLMMDEForDepthEstimation.from_pretrained("tester/indoor", revision="paper")), depth_of(indoor)
    )
    merged, _ = load_model_and_processor("tester/indoor", revision="paper", device="cpu")
    torch.testing.assert_close(depth_of(merged), depth_of(indoor), rtol=1e-5, atol=1e-5)


def test_what_a_caller_changes_in_the_configuration_holds_on_a_pinned_base(published):
    """The main branch says 20 m, the revision that the adapter names says 10 m."""
    assert AutoModelForDepthEstimation.from_pretrained("tester/base").config.max_depth == 20.0
    assert AutoModelForDepthEstimation.from_pretrained("tester/indoor").config.max_depth == 10.0
    changes = {"max_depth": 5.0, "dtype": "bfloat16", "attn_implementation": "eager"}
    model = AutoModelForDepthEstimation.from_pretrained("tester/indoor", **changes)
    assert model.config.max_depth == 5.0
    assert model.vision_tower.config._attn_implementation == "eager"
    assert model.dtype == torch.bfloat16


def test_a_pipeline_takes_the_processor_of_the_adapter_unless_another_is_chosen(made, published):
    options = {"model": "tester/indoor", "pipeline_class": LLMMDEDepthEstimationPipeline, "device": "cpu"}
    assert pipeline("depth-estimation", **options).processor.image_processor.size["height"] == 40
    chosen = LLMMDEProcessor.from_pretrained(made / "base")
    chosen.image_processor.size = {"height": 24, "width": 24}
    assert pipeline("depth-estimation", processor=chosen, **options).processor is chosen


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="older versions of Transformers (seen with 5.17) do not pass a pipeline's token on to an adapter's base",
)
def test_a_pipeline_reads_private_repositories_with_the_token_it_is_given(made, hub_server, monkeypatch):
    api = HfApi(endpoint=hub_server.url, token=hub_server.token)
    for name in ("base", "indoor"):
        api.create_repo(f"tester/{name}", private=True)
        api.upload_folder(repo_id=f"tester/{name}", folder_path=made / name)
    api.create_tag("tester/base", tag="v1")
    monkeypatch.delenv("HF_TOKEN")
    options = {"model": "tester/indoor", "pipeline_class": LLMMDEDepthEstimationPipeline, "device": "cpu"}
    with pytest.raises(OSError, match="tester/indoor"):
        pipeline("depth-estimation", **options)
    estimate = pipeline("depth-estimation", token=hub_server.token, **options)
    assert estimate.processor.image_processor.size["height"] == 40  # the adapter's own


def test_a_processor_that_was_chosen_stays_where_the_base_has_none(made, tmp_path):
    base, adapter = copy_of(made / "base", tmp_path / "base"), copy_of(made / "indoor", tmp_path / "indoor")
    chosen = LLMMDEProcessor.from_pretrained(base)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    rename_base(adapter, str(base), None)
    options = {"pipeline_class": LLMMDEDepthEstimationPipeline, "device": "cpu"}
    assert pipeline("depth-estimation", model=str(adapter), processor=chosen, **options).processor is chosen


class LeavesAMark:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def pickle_weights(folder, name, mark):
    """Replaces weights in safetensors by a pickle that shows when it was opened."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / name).write_bytes(pickle.dumps(LeavesAMark(mark)))
    pickle.loads((folder / name).read_bytes())
    assert mark.exists()
    mark.unlink()


@pytest.mark.parametrize("route", AUTO_ROUTES)
@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_pickled_weights_are_refused_unopened(kind, place, route, made, hub_server, tmp_path):
    mark, folder = tmp_path / "mark", copy_of(made / ("indoor" if kind == "adapter" else "base"), tmp_path / kind)
    rename_base(folder, str(made / "base"), None) if kind == "adapter" else None
    pickle_weights(folder, "adapter_model.bin" if kind == "adapter" else "pytorch_model.bin", mark)
    name = str(folder) if place == "folder" else upload(hub_server, kind, folder)
    with pytest.raises((OSError, ValueError), match="Pickled weights are not read"):
        AUTO_ROUTES[route](name)
    assert not mark.exists()
    assert not [request for request in hub_server.requests if "/resolve/" in request.path and ".bin" in request.path]


def test_a_pickled_adapter_is_refused_unopened_by_the_model(made, tmp_path):
    mark, folder = tmp_path / "mark", copy_of(made / "indoor", tmp_path / "pickled")
    pickle_weights(folder, "adapter_model.bin", mark)
    model = LLMMDEForDepthEstimation.from_pretrained(made / "base")
    before = depth_of(model)
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors .* Pickled weights are not read"):
        model.load_adapter(str(folder))
    assert torch.equal(depth_of(model), before)
    with pytest.raises(ValueError, match="`use_safetensors` is False"):
        model.load_adapter(str(made / "indoor"), use_safetensors=False)
    with pytest.raises(ValueError, match="`use_safetensors` is False"):
        LLMMDEForDepthEstimation.from_pretrained(made / "base", use_safetensors=False)
    assert not mark.exists()
