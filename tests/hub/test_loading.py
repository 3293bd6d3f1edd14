"""From a name to a model that predicts: folders, adapters, a Hub cache, and names that are none of these."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig

from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.hub.loading import is_adapter
from tests.conftest import make_pair

LORA = {
    "r": 4,
    "lora_alpha": 8,
    "init_lora_weights": False,
    "target_modules": ["self.query"],
    "modules_to_save": ["text_prototypes", "reprogramming"],
}


def depth_of(model, pixel_values) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixel_values).predicted_depth


@pytest.fixture
def model_folder(tmp_path):
    return write_model_folder(tmp_path / "model", *make_pair())


@pytest.fixture
def adapter(model_folder, tmp_path, pixel_values):
    """An adapter folder with LoRA and modules saved whole, and the depth that it was trained to."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    trained = peft.get_peft_model(
        LLMMDEForDepthEstimation.from_pretrained(model_folder), peft.LoraConfig(**LORA)
    ).eval()
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    trained.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", depth_of(trained, pixel_values)


def rewrite_base(adapter_folder, **changes) -> None:
    file = adapter_folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def put_in_hub_cache(folder, cache, repo, revision, commit) -> None:
    """Lays a folder down as the Hub client would after a download."""
    repository = cache / f"models--{repo.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)


def test_a_model_folder_gives_its_model_and_processor(model_folder, pixel_values):
    model, processor = load_model_and_processor(model_folder, device="cpu")
    assert type(model) is LLMMDEForDepthEstimation
    assert not model.training
    assert model.device == torch.device("cpu")
    assert isinstance(processor, LLMMDEProcessor)
    assert processor.max_prompt_length == 96
    assert torch.equal(depth_of(model, pixel_values), depth_of(make_pair()[0], pixel_values))


def test_without_a_device_the_accelerator_is_taken_if_there_is_one(model_folder):
    model, _ = load_model_and_processor(model_folder)
    expected = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    assert model.device.type == expected


def test_an_adapter_predicts_what_it_was_trained_to(adapter, pixel_values):
    folder, expected = adapter
    model, processor = load_model_and_processor(folder, device="cpu")
    assert type(model) is LLMMDEForDepthEstimation
    assert not model.training
    torch.testing.assert_close(depth_of(model, pixel_values), expected, rtol=0, atol=1e-4)
    assert (depth_of(make_pair()[0], pixel_values) - expected).abs().max() > 0.1
    assert processor.max_prompt_length == 96  # the base's: this adapter has none


def test_a_processor_beside_the_adapter_goes_before_that_of_the_base(adapter):
    folder, _ = adapter
    make_pair(max_prompt_length=80)[1].save_pretrained(folder)
    assert load_model_and_processor(folder)[1].max_prompt_length == 80


@pytest.mark.parametrize("is_adapter", [False, True])
def test_the_type_of_the_weights_can_be_chosen(is_adapter, model_folder, adapter):
    name = adapter[0] if is_adapter else model_folder
    assert load_model_and_processor(name)[0].dtype == torch.float32
    model, _ = load_model_and_processor(name, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_revisions_of_a_hub_adapter_and_of_its_base_are_followed(adapter, tmp_path, monkeypatch, pixel_values):
    """The base's main branch holds another model: only the revision that the adapter names predicts right."""
    folder, expected = adapter
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    put_in_hub_cache(tmp_path / "model", cache, "user/base", "v1", "1" * 40)
    other = write_model_folder(tmp_path / "other", *make_pair(num_prototypes=11))
    put_in_hub_cache(other, cache, "user/base", "main", "2" * 40)
    rewrite_base(folder, base_model_name_or_path="user/base", revision="v1")
    put_in_hub_cache(folder, cache, "user/adapter", "paper", "3" * 40)

    assert load_model_and_processor("user/base")[0].config.num_prototypes == 11
    model, _ = load_model_and_processor("user/adapter", revision="paper", device="cpu")
    torch.testing.assert_close(depth_of(model, pixel_values), expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="'user/adapter'"):
        load_model_and_processor("user/adapter", revision="main")


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such/folder", "nobody/nothing"])
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(ValueError, match=f"`name_or_path` is '{name}': there is no such folder"):
        load_model_and_processor(name)


def test_what_is_not_an_llm_mde_is_refused_with_what_it_is(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_model_and_processor(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a 'bert' model"):
        load_model_and_processor(tmp_path)


@pytest.mark.parametrize(
    ("base", "message"), [(None, "no `base_model_name_or_path`"), ("/gone", "the base '/gone'.*no such folder")]
)
def test_an_adapter_without_its_base_is_refused(base, message, adapter):
    rewrite_base(adapter[0], base_model_name_or_path=base)
    with pytest.raises(ValueError, match=message):
        load_model_and_processor(adapter[0])


@pytest.mark.parametrize(("kept", "lost"), [("lora", "text_prototypes"), ("text_prototypes", "lora")])
def test_half_an_adapter_is_refused(kept, lost, adapter):
    from safetensors.torch import load_file, save_file

    file = adapter[0] / "adapter_model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if kept in name or "reprogramming" in name}
    save_file(weights, file)
    with pytest.raises(
        ValueError, match=rf"does not fit this model: '.*{lost}.*' is absent in the adapter and \(.*\) in"
    ):
        load_model_and_processor(adapter[0])


def test_pickled_weights_are_not_read(adapter):
    folder, _ = adapter
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors .* Pickled weights are not read"):
        load_model_and_processor(folder)


def test_half_a_model_is_refused(model_folder):
    from safetensors.torch import load_file, save_file

    file = model_folder / "model.safetensors"
    weights = load_file(file)
    del weights["reprogramming.patch_query.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing, the first 'reprogramming\.patch_query\.weight'"):
        load_model_and_processor(model_folder)


def test_a_model_without_a_processor_is_refused(model_folder):
    for file in [*model_folder.glob("processor*"), *model_folder.glob("token*")]:
        file.unlink()
    with pytest.raises(ValueError, match="no processor"):
        load_model_and_processor(model_folder)


def test_a_device_that_is_not_there_is_refused(model_folder):
    with pytest.raises(ValueError, match="`device` is 'abacus'"):
        load_model_and_processor(model_folder, device="abacus")


def test_a_base_that_was_moved_with_its_adapter_is_found_beside_it(adapter, tmp_path, pixel_values):
    folder, expected = adapter
    (tmp_path / "moved").mkdir()
    (tmp_path / "model").rename(tmp_path / "moved" / "base")
    folder = folder.rename(tmp_path / "moved" / "adapter")
    for named in ("base", "../base", str(tmp_path / "before" / "base")):
        rewrite_base(folder, base_model_name_or_path=named)
        model, _ = load_model_and_processor(folder, device="cpu")
        torch.testing.assert_close(depth_of(model, pixel_values), expected, rtol=0, atol=1e-4)
    rewrite_base(folder, base_model_name_or_path=str(tmp_path / "before" / "another"))
    with pytest.raises(ValueError, match="another"):
        load_model_and_processor(folder)


def test_an_adapter_is_told_from_a_model_and_from_nothing(adapter, model_folder, tmp_path):
    assert is_adapter(adapter[0])
    assert not is_adapter(model_folder)
    assert not is_adapter(tmp_path / "nothing")


def test_half_a_download_of_an_adapter_is_refused_by_name(adapter):
    folder, _ = adapter
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"adapter' has an adapter_model\.safetensors that is cut short"):
        load_model_and_processor(folder, device="cpu")


@pytest.mark.parametrize("by_peft", [False, True], ids=["load_adapter", "PeftModel"])
def test_a_model_with_an_adapter_in_it_is_not_written_as_a_whole_one(by_peft, adapter, tmp_path, pixel_values):
    peft = pytest.importorskip("peft")
    folder, expected = adapter
    model, processor = make_pair()
    if by_peft:
        model = peft.PeftModel.from_pretrained(model, str(folder))
    else:
        model.load_adapter(str(folder))
    with pytest.raises(ValueError, match="`model` has layers of an adapter in it"):
        write_model_folder(tmp_path / "whole", model, processor)
    assert not (tmp_path / "whole").exists()
    merged, processor = load_model_and_processor(folder, device="cpu")  # the way out
    write_model_folder(tmp_path / "whole", merged, processor)
    whole, _ = load_model_and_processor(tmp_path / "whole", device="cpu")
    torch.testing.assert_close(depth_of(whole, pixel_values), expected, rtol=0, atol=1e-4)
