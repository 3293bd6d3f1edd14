"""The two parametrisations of the text prototypes, what they are made of, and the memo in front of them."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llm_mde import LLMMDEForDepthEstimation, reprogramming_llm_mde
from llm_mde.reprogramming_llm_mde import ExactMemo, embedding_basis
from tests.conftest import make_model


def prototypes_of(model) -> torch.Tensor:
    return model.text_prototypes(model.word_basis(model.get_input_embeddings().weight))


def test_word_embeddings_times_their_map_are_the_prototypes_of_the_paper():
    model = make_model(prototype_parametrization="vocabulary")
    assert model.text_prototypes.weight.shape == (10, 99)
    expected = model.text_prototypes.weight @ model.get_input_embeddings().weight
    torch.testing.assert_close(prototypes_of(model), expected)


def test_compact_learns_fewer_weights_for_the_same_prototypes():
    model = make_model(prototype_parametrization="vocabulary")
    before, words = prototypes_of(model), model.get_input_embeddings().weight
    model.convert_prototypes("compact")
    assert model.text_prototypes.weight.shape == (10, 32)
    assert model.config.prototype_parametrization == "compact"
    torch.testing.assert_close(prototypes_of(model), before, rtol=0, atol=1e-6)
    model.convert_prototypes("vocabulary")
    torch.testing.assert_close(prototypes_of(model), before, rtol=0, atol=1e-6)
    assert model.get_input_embeddings().weight is words


def test_conversion_changes_no_depth_and_survives_saving(pixel_values, prompts, tmp_path):
    model = make_model(prototype_parametrization="vocabulary")
    with torch.no_grad():
        before = model(pixel_values, **prompts).predicted_depth
    model.convert_prototypes("compact").save_pretrained(tmp_path)
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values, **prompts).predicted_depth, before, rtol=0, atol=1e-5)


def test_conversion_works_for_a_vocabulary_smaller_than_the_embedding():
    from transformers import BertConfig

    text_config = BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64
    )
    model = make_model(text_config=text_config, prototype_parametrization="vocabulary")
    before = prototypes_of(model)
    model.convert_prototypes("compact")
    assert model.text_prototypes.weight.shape == (10, 20)
    torch.testing.assert_close(prototypes_of(model), before, rtol=0, atol=1e-6)


def test_gradient_descent_moves_the_prototypes_alike_in_both_parametrisations():
    """SGD with weight decay on A is SGD with weight decay on M: ten steps on the same loss."""
    torch.manual_seed(0)
    words = torch.randn(99, 32, dtype=torch.float64)
    q, r = torch.linalg.qr(words)
    target = torch.randn(10, 32, dtype=torch.float64)
    vocabulary = nn.Parameter(torch.randn(10, 99, dtype=torch.float64))
    compact = nn.Parameter((vocabulary @ q).detach())

    def descend(weight: nn.Parameter, basis: torch.Tensor) -> torch.Tensor:
        optimizer = torch.optim.SGD([weight], lr=1e-3, weight_decay=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            ((weight @ basis).tanh() - target).square().sum().backward()
            optimizer.step()
        return weight @ basis

    start = compact @ r
    by_vocabulary, by_compact = descend(vocabulary, words), descend(compact, r)
    torch.testing.assert_close(by_compact, by_vocabulary, rtol=0, atol=1e-10)
    assert (by_compact - start).abs().max() > 0.1


def test_model_gradients_agree_between_the_parametrisations(pixel_values):
    """The same through the whole model: dA R = dM E, the step of the prototypes themselves."""
    labels = torch.full((2, 32, 32), 2.0)
    steps = {}
    model = make_model(prototype_parametrization="vocabulary")
    for parametrization in ("vocabulary", "compact"):
        model.convert_prototypes(parametrization)
        model.zero_grad()
        model(pixel_values, labels=labels).loss.backward()
        basis = model.word_basis(model.get_input_embeddings().weight)
        steps[parametrization] = model.text_prototypes.weight.grad @ basis
    torch.testing.assert_close(steps["compact"], steps["vocabulary"], rtol=1e-3, atol=1e-6)
    assert steps["compact"].abs().max() > 1e-4


def test_the_word_basis_is_not_trained(model, pixel_values):
    model(pixel_values, labels=torch.ones(2, 32, 32)).loss.backward()
    assert not model.word_basis.weight.requires_grad
    assert model.word_basis.weight.grad is None


def test_the_basis_spans_the_word_embeddings(model):
    words = model.get_input_embeddings().weight
    q, r = embedding_basis(words)
    torch.testing.assert_close(q @ r, words, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.word_basis.weight, r)
    assert (r.diagonal() > 0).all()


@pytest.mark.parametrize("parametrization", ["vocabulary", "compact"])
def test_nearest_words_recovers_what_a_prototype_is_made_of(parametrization):
    model = make_model(prototype_parametrization="vocabulary")
    with torch.no_grad():
        model.text_prototypes.weight.zero_()
        model.text_prototypes.weight[4, 17] = 1.0
        model.text_prototypes.weight[5, 60], model.text_prototypes.weight[5, 8] = 0.8, 0.6
    model.convert_prototypes(parametrization)
    (word, score), *_ = model.nearest_words(4, k=3)
    assert word == 17
    assert score == pytest.approx(1.0, abs=1e-5)
    words = [word for word, _ in model.nearest_words(5, k=5)]  # 99 words in 32 dimensions overlap a little
    assert words[0] == 60
    assert 8 in words


def test_nearest_words_out_of_range_are_refused(model):
    with pytest.raises(ValueError, match=r"`prototype` is 10; it must be in \[0, 10\)"):
        model.nearest_words(10)
    with pytest.raises(ValueError, match=r"`k` is 0"):
        model.nearest_words(0, k=0)
    with pytest.raises(ValueError, match="`parametrization` is 'dense'"):
        model.convert_prototypes("dense")


def test_every_patch_attends_to_all_prototypes_with_weights_of_sum_one(model, pixel_values):
    with torch.no_grad():
        outputs = model(pixel_values, output_prototype_attentions=True)
    assert outputs.prototype_attentions.shape == (2, 2, 16, 10)
    torch.testing.assert_close(outputs.prototype_attentions.sum(-1), torch.ones(2, 2, 16))
    assert outputs.attentions is None


def test_prototype_attentions_are_the_weights_that_were_used(model, pixel_values):
    """SDPA does not return them, so they are computed a second time: the two must be one attention."""
    with torch.no_grad():
        prototypes = prototypes_of(model)
        patches = torch.randn(1, 5, 32)
        output, attentions = model.reprogramming(patches, prototypes, output_attentions=True)
        _, value = model.reprogramming.project_prototypes(prototypes)
        expected = model.reprogramming.to_embedding((attentions @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_keys_and_values_have_projections_of_their_own(model, pixel_values):
    """The authors' release computes a value projection and then uses the keys as values."""
    labels = torch.ones(2, 32, 32)
    model(pixel_values, labels=labels).loss.backward()
    assert model.reprogramming.prototype_value.weight.grad.abs().max() > 0
    assert model.reprogramming.prototype_key.weight.grad.abs().max() > 0
    with torch.no_grad():
        before = model(pixel_values).predicted_depth
        model.reprogramming.prototype_value.weight.add_(0.5 * torch.randn(32, 32))
        assert (model(pixel_values).predicted_depth - before).abs().max() > 1e-4


# ----------------------------------------------------------------------------------------------- the memo


class CountMatmuls(TorchDispatchMode):
    """Counts products with a result of one shape. Inference mode shows `linear` and `matmul` whole, no_grad split."""

    products = frozenset(getattr(torch.ops.aten, name).default for name in ("mm", "addmm", "linear", "matmul"))

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = tuple(shape), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in self.products and tuple(result.shape) == self.shape:
            self.count += 1
        return result


def projections(model, pixel_values, **kwargs) -> int:
    """How many products of prototypes one forward computes: the prototypes themselves, keys, values."""
    with CountMatmuls((10, 32)) as counter:
        model(pixel_values, **kwargs)
    return counter.count


def fresh_depth(model, pixel_values) -> torch.Tensor:
    """Depth of a copy of the model, which starts with an empty memo."""
    with torch.no_grad():
        return copy.deepcopy(model)(pixel_values).predicted_depth


@pytest.fixture
def warm_model(model, pixel_values):
    with torch.no_grad():
        model(pixel_values)
    return model


def assert_not_stale(model, pixel_values, before=None):
    with torch.no_grad():
        depth = model(pixel_values).predicted_depth
    assert torch.equal(depth, fresh_depth(model, pixel_values))
    if before is not None:
        assert (depth - before).abs().max() > 1e-6, "the change was meant to be visible in the depth"


def test_prototypes_are_projected_once_in_inference(model, pixel_values):
    with torch.no_grad():
        assert projections(model, pixel_values) == 3
        assert projections(model, pixel_values) == 0
        assert projections(model, pixel_values.flip(0)) == 0


def test_inference_mode_remembers_too(model, pixel_values):
    with torch.inference_mode():
        assert projections(model, pixel_values) == 3
        assert projections(model, pixel_values) == 0


def test_the_memo_changes_no_bit(warm_model, pixel_values):
    assert_not_stale(warm_model, pixel_values)


def test_training_never_reads_the_memo(warm_model, pixel_values):
    warm_model.train()
    assert projections(warm_model, pixel_values, labels=torch.ones(2, 32, 32)) == 3
    warm_model(pixel_values, labels=torch.ones(2, 32, 32)).loss.backward()
    assert warm_model.text_prototypes.weight.grad.abs().max() > 0


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_step_is_seen(warm_model, pixel_values, optimizer_class):
    before = fresh_depth(warm_model, pixel_values)
    optimizer = optimizer_class(
        [*warm_model.text_prototypes.parameters(), *warm_model.reprogramming.parameters()], lr=0.1
    )
    warm_model(pixel_values, labels=torch.ones(2, 32, 32)).loss.backward()
    optimizer.step()
    assert_not_stale(warm_model, pixel_values, before)


def test_an_optimizer_step_without_leaving_no_grad_is_seen(warm_model, pixel_values):
    before = fresh_depth(warm_model, pixel_values)
    optimizer = torch.optim.SGD(warm_model.reprogramming.parameters(), lr=0.1)
    with torch.no_grad():
        for parameter in warm_model.reprogramming.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert_not_stale(warm_model, pixel_values, before)


@pytest.mark.parametrize("name", ["text_prototypes.weight", "reprogramming.prototype_value.weight"])
def test_a_change_through_data_is_seen(warm_model, pixel_values, name):
    """Merging an adapter writes to `.data`, which neither version counters nor addresses show."""
    before = fresh_depth(warm_model, pixel_values)
    warm_model.get_parameter(name).data.mul_(1.5).add_(0.1)
    assert_not_stale(warm_model, pixel_values, before)


def test_load_state_dict_is_seen(warm_model, pixel_values):
    before = fresh_depth(warm_model, pixel_values)
    other = make_model()
    with torch.no_grad():
        for parameter in other.reprogramming.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    warm_model.load_state_dict(other.state_dict())
    assert_not_stale(warm_model, pixel_values, before)


def test_assigning_a_state_dict_is_seen(warm_model, pixel_values):
    before = fresh_depth(warm_model, pixel_values)
    state_dict = {name: value.clone() for name, value in warm_model.state_dict().items()}
    state_dict["text_prototypes.weight"] = torch.randn(10, 32)
    warm_model.load_state_dict(state_dict, assign=True)
    assert_not_stale(warm_model, pixel_values, before)


def test_a_change_of_dtype_is_seen(warm_model, pixel_values):
    warm_model.double()
    assert_not_stale(warm_model, pixel_values)
    warm_model.to(torch.bfloat16)
    assert_not_stale(warm_model, pixel_values)
    warm_model.float()
    assert_not_stale(warm_model, pixel_values)


def test_a_move_to_another_device_is_seen(warm_model, pixel_values):
    """The meta device stands in for an accelerator: the memo holds CPU tensors when other weights come back."""
    assert warm_model.text_prototypes._memo._entry is not None
    warm_model.to("meta")
    assert prototypes_of(warm_model).device.type == "meta"
    warm_model.to_empty(device="cpu").load_state_dict(make_model().state_dict())
    for name, buffer in make_model().named_buffers():  # those that no checkpoint holds
        warm_model.get_buffer(name).copy_(buffer)
    assert_not_stale(warm_model, pixel_values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_move_to_an_accelerator_and_back_is_seen(warm_model, pixel_values):
    before = fresh_depth(warm_model, pixel_values)
    warm_model.cuda()
    with torch.no_grad():
        on_device = warm_model(pixel_values.cuda()).predicted_depth.cpu()
    torch.testing.assert_close(on_device, before, rtol=1e-2, atol=1e-2)
    assert_not_stale(warm_model.cpu(), pixel_values)


def test_autocast_does_not_leak_into_full_precision(warm_model, pixel_values):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        warm_model(pixel_values)
    assert_not_stale(warm_model, pixel_values)


def test_the_memo_never_enters_a_checkpoint(warm_model, tmp_path):
    names = set(make_model().state_dict())
    assert set(warm_model.state_dict()) == names
    warm_model.save_pretrained(tmp_path)
    saved = {name for name in load_file(tmp_path / "model.safetensors") if not name.startswith("vision_tower")}
    assert saved == {name for name in names if not name.startswith("vision_tower")}
    assert pickle.loads(pickle.dumps(warm_model.reprogramming))._memo._entry is None
    assert copy.deepcopy(warm_model).text_prototypes._memo._entry is None


def test_the_memo_forgets_when_gradients_are_on(model, pixel_values):
    with torch.no_grad():
        model(pixel_values)
    assert model.text_prototypes._memo._entry is not None
    model(pixel_values)
    assert model.text_prototypes._memo._entry is None


@pytest.mark.parametrize("largest_copy", [2**24, 0], ids=["copied", "digested"])
def test_a_memo_recomputes_when_any_bit_of_an_input_changes(largest_copy, monkeypatch):
    monkeypatch.setattr(reprogramming_llm_mde, "_LARGEST_COPY", largest_copy)
    memo, calls = ExactMemo(), []
    value = torch.zeros(3)

    def compute():
        calls.append(1)
        return (value * 2,)

    with torch.no_grad():
        memo(compute, [value])
        memo(compute, [value])
        assert len(calls) == 1
        value.data[1] = 1e-30
        memo(compute, [value])
        assert len(calls) == 2
        memo(compute, [value, value])
        assert len(calls) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_memo_keeps_no_second_copy_of_a_large_input(dtype, monkeypatch):
    monkeypatch.setattr(reprogramming_llm_mde, "_LARGEST_COPY", 64)
    memo, small, large = ExactMemo(), torch.zeros(4, dtype=dtype), torch.randn(30, 40).to(dtype)
    with torch.no_grad():
        memo(lambda: (large.sum(),), [small, large])
        (_, (kept_small, kept_large), _) = memo._entry
        assert isinstance(kept_small[-1], torch.Tensor) and isinstance(kept_large[-1], bytes)
        large.data[[0, 1]] = large[[1, 0]].clone()  # the same numbers in another order
        (total,) = memo(lambda: (large[0].sum(),), [small, large])
    assert total == large[0].sum()


@pytest.mark.parametrize("vocab_size", [120, 90])
@pytest.mark.parametrize("parametrization", ["compact", "vocabulary"])
def test_words_may_be_added_or_taken_away(parametrization, vocab_size, pixel_values, tmp_path):
    model = make_model(prototype_parametrization=parametrization, default_prompt_ids=[2, 7])
    with torch.no_grad():
        before = model(pixel_values).predicted_depth
        model.resize_token_embeddings(vocab_size)
        resized = model(pixel_values).predicted_depth
        if parametrization == "compact" or vocab_size > 99:  # the map from words loses what it made of the last ones
            torch.testing.assert_close(resized, before)
        model.save_pretrained(tmp_path)
        assert torch.equal(LLMMDEForDepthEstimation.from_pretrained(tmp_path)(pixel_values).predicted_depth, resized)
        other = "vocabulary" if parametrization == "compact" else "compact"
        model.convert_prototypes(other)
        torch.testing.assert_close(model(pixel_values).predicted_depth, resized, rtol=0, atol=1e-4)
