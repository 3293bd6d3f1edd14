"""The whole model: inputs, outputs, precision, compilation, and the defects of the authors' release."""

import copy
import logging
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForDepthEstimation, BertConfig, BertModel, ViTConfig, ViTModel

from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation
from llm_mde.depth_head_llm_mde import LLMMDEDepthHead, map_to_tokens, resize_map, tokens_to_map
from llm_mde.modeling_llm_mde import grid_for_language, largest_grid
from tests.conftest import make_config, make_model


def depth_of(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).predicted_depth


# ---------------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize("size", [(32, 32), (24, 56), (64, 40)])
def test_depth_has_the_size_of_the_image(model, size):
    assert depth_of(model, torch.randn(2, 3, *size)).shape == (2, *size)


def test_metric_depth_fills_the_range_in_metres():
    """The authors' release leaves a sigmoid in 0 to 1 and lets the loss absorb the scale."""
    model = make_model(min_depth=2.0, max_depth=80.0)
    logits = torch.tensor([-1e4, 0.0, 1e4])
    torch.testing.assert_close(model._depth(logits), torch.tensor([2.0, 41.0, 80.0]))


def test_relative_depth_is_positive_without_upper_bound():
    model = make_model(depth_estimation_type="relative")
    depth = model._depth(torch.tensor([-1e4, 0.0, 1e4]))
    assert depth[0] > 0
    assert depth[2] == pytest.approx(1e4)


def test_relative_models_are_trained_free_of_scale(pixel_values):
    model = make_model(depth_estimation_type="relative")
    labels = torch.rand(2, 32, 32) + 1
    with torch.no_grad():
        losses = [model(pixel_values, labels=scale * labels).loss for scale in (1, 100)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)  # a difference of squares, in float32


def test_an_untrained_model_starts_smooth_and_nearer_than_the_middle():
    depth = depth_of(make_model(), torch.randn(4, 3, 64, 64))
    assert 1 < depth.mean() < 5
    assert depth.std() < 2


def test_no_weight_is_left_without_initialisation():
    model = make_model()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "token" not in name:
            assert parameter.std() > 0, name


# ---------------------------------------------------------------------------------------------- prompts


def test_without_a_prompt_the_default_prompt_is_read(model, pixel_values):
    ids = torch.tensor([model.config.default_prompt_ids] * 2)
    assert torch.equal(depth_of(model, pixel_values), depth_of(model, pixel_values, input_ids=ids))


def test_the_ablation_without_a_prompt_reads_none(pixel_values, prompts):
    model = make_model(use_prompt=False)
    seen = []
    model.language_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    assert torch.equal(depth_of(model, pixel_values), depth_of(model, pixel_values, **prompts))
    assert seen == [16, 16]


def test_a_missing_mask_means_that_every_word_counts(model, pixel_values, prompts):
    ids = prompts["input_ids"]
    everything = depth_of(model, pixel_values, input_ids=ids, attention_mask=torch.ones_like(ids))
    assert torch.equal(depth_of(model, pixel_values, input_ids=ids), everything)
    assert not torch.equal(depth_of(model, pixel_values, **prompts), everything)


def test_masked_words_are_not_read(model, pixel_values, prompts):
    changed = torch.where(prompts["attention_mask"] > 0, prompts["input_ids"], 50)
    masked = depth_of(model, pixel_values, input_ids=changed, attention_mask=prompts["attention_mask"])
    torch.testing.assert_close(masked, depth_of(model, pixel_values, **prompts), rtol=0, atol=1e-5)


def test_a_prompt_may_have_any_length_up_to_the_maximum(model, pixel_values):
    """The authors' release takes exactly 310 tokens."""
    for length in (1, 2, 9, 16):
        assert depth_of(model, pixel_values, input_ids=torch.full((2, length), 5)).shape == (2, 32, 32)


# ---------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("size", [(32, 32), (17, 23), (120, 160)])
def test_labels_may_have_any_resolution(model, pixel_values, size):
    labels = torch.rand(2, *size) * 9 + 0.5
    loss = model(pixel_values, labels=labels).loss
    assert loss.isfinite()
    resized = torch.nn.functional.interpolate(
        depth_of(model, pixel_values)[:, None], size=size, mode="bilinear", align_corners=False
    )[:, 0]
    d = (resized.log() - labels.log()).flatten(1)
    per_image = (d.square().mean(1) - 0.15 * d.mean(1).square()).sqrt()
    torch.testing.assert_close(loss, per_image.mean())


def test_labels_above_the_maximum_depth_are_missing(model, pixel_values):
    labels = torch.rand(2, 32, 32) * 9 + 0.5
    with_hole, beyond = labels.clone(), labels.clone()
    with_hole[:, 4:9], beyond[:, 4:9] = 0, 10.5
    assert model(pixel_values, labels=beyond).loss == model(pixel_values, labels=with_hole).loss


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -1.0, 11.0])
def test_a_batch_without_any_measurement_trains_to_no_harm(model, pixel_values, value):
    model.train()
    loss = model(pixel_values, labels=torch.full((2, 32, 32), value)).loss
    loss.backward()
    assert loss == 0
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() == 0


def test_every_trainable_weight_gets_a_gradient(model, pixel_values, prompts):
    model.train()
    model(pixel_values, **prompts, labels=torch.rand(2, 32, 32) + 1).loss.backward()
    without = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ]
    # Adding a constant to all keys changes no attention; the class token reaches the head only through attention.
    assert all("k_proj.bias" in name or "key.bias" in name for name in without), without


def test_training_at_batch_one_computes_what_prediction_computes(pixel_values):
    """No batch statistics: with dropout off, the two modes agree to the last bit."""
    model = make_model(encoder_dropout=False)
    evaluated = depth_of(model, pixel_values[:1])
    assert torch.equal(depth_of(model.train(), pixel_values[:1]), evaluated)


def test_a_hundred_steps_on_one_image_fit_it(pixel_values):
    torch.manual_seed(0)
    model = make_model().train()
    labels = torch.linspace(1, 8, 32).expand(2, 32, 32).contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = model(pixel_values, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    error = (depth_of(model.eval(), pixel_values) - labels).abs() / labels
    assert error.mean() < 0.2  # in metres, not up to scale


def test_the_loss_is_averaged_over_accumulated_batches():
    """With `accepts_loss_kwargs` the Trainer would pass a pixel count and leave the loss four times too large."""
    assert LLMMDEForDepthEstimation.accepts_loss_kwargs is False


# ---------------------------------------------------------------------------------------------- outputs


def test_outputs_hold_what_was_asked_for(pixel_values):
    model = LLMMDEForDepthEstimation._from_config(make_config(), attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(pixel_values, output_hidden_states=True, output_attentions=True)
        plain = model(pixel_values)
    assert len(outputs.hidden_states) == 5
    assert outputs.hidden_states[0].shape == (2, 17, 32)
    assert outputs.attentions[0].shape == (2, 2, 17, 17)
    assert outputs.language_model_output.hidden_states[0].shape == (2, 4 + 16, 32)
    assert outputs.language_model_output.attentions[0].shape == (2, 2, 20, 20)
    assert outputs.prototype_attentions.shape == (2, 2, 16, 10)
    assert plain.keys() == {"predicted_depth"}


def test_selected_hidden_states_leave_the_others_out(model, pixel_values):
    with torch.no_grad():
        states = model(pixel_values, output_hidden_states=[1, -1]).hidden_states
    assert [state is not None for state in states] == [False, True, False, False, True]


def test_a_tuple_comes_back_where_asked_for(model, pixel_values):
    labels = torch.ones(2, 32, 32)
    loss, predicted_depth = model(pixel_values, labels=labels, return_dict=False)
    assert loss.ndim == 0
    assert predicted_depth.shape == (2, 32, 32)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel_values": torch.zeros(3, 32, 32)}, r"`pixel_values` is \(3, 32, 32\)"),
        (
            {"pixel_values": torch.zeros(1, 1, 32, 32)},
            r"`pixel_values` is \(1, 1, 32, 32\); it must be \(batch_size, 3",
        ),
        (
            {"pixel_values": torch.zeros(1, 3, 30, 32)},
            "`pixel_values` is 30 x 32 pixels; both sides must be multiples",
        ),
        ({"input_ids": torch.zeros(3, 4).long()}, r"`input_ids` is \(3, 4\) for 2 images"),
        ({"input_ids": torch.zeros(2, 17).long()}, "`input_ids` has 17 tokens; the model takes at most .*16"),
        (
            {"input_ids": torch.zeros(2, 4).long(), "attention_mask": torch.ones(2, 5).long()},
            r"`attention_mask` is \(2, 5\) but `input_ids` is \(2, 4\)",
        ),
        ({"labels": torch.ones(2, 1, 32, 32)}, r"`labels` is \(2, 1, 32, 32\) for 2 images"),
        ({"labels": torch.ones(1, 32, 32)}, r"`labels` is \(1, 32, 32\) for 2 images"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(model, pixel_values, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**{"pixel_values": pixel_values, **arguments})


def test_a_layer_the_encoder_does_not_have_is_refused():
    with pytest.raises(
        ValueError, match=r"`vision_feature_layers` is \[1, 2, 3, 5\]; the vision encoder has 4 layers"
    ):
        make_model(vision_feature_layers=[1, 2, 3, 5])


# ---------------------------------------------------------------------------------------------- head and grids


@pytest.mark.parametrize(
    ("grid", "max_patches", "expected"),
    [
        ((14, 14), 384, (14, 14)),
        ((30, 40), 384, (17, 22)),
        ((30, 40), None, (30, 40)),
        ((2, 100), 10, (1, 10)),
        ((100, 2), 10, (10, 1)),
        ((3, 3), 1, (1, 1)),
        ((20, 20), 400, (20, 20)),
    ],
)
def test_the_largest_grid_that_fits(grid, max_patches, expected):
    rows, columns = largest_grid(grid, max_patches)
    assert (rows, columns) == expected
    assert max_patches is None or rows * columns <= max_patches


@pytest.mark.parametrize(
    ("grid", "pooling", "max_positions", "expected"),
    [((14, 14), 2, 512, (7, 7)), ((3, 5), 2, 512, (2, 3)), ((30, 40), 1, 512, (17, 22)), ((60, 80), 2, 512, (17, 22))],
)
def test_the_language_model_reads_a_coarser_grid(grid, pooling, max_positions, expected):
    text_config = BertConfig(max_position_embeddings=max_positions)
    config = make_config(text_config=text_config, language_pooling=pooling, max_prompt_length=128)
    assert grid_for_language(grid, config) == expected


def test_pooled_patches_are_averages_of_their_neighbours(pixel_values, prompts):
    model = make_model(language_pooling=2)
    seen = {}
    model.vision_tower.register_forward_hook(lambda *call: seen.update(vision=call[-1].last_hidden_state))
    model.reprogramming.register_forward_pre_hook(lambda _, arguments: seen.update(patches=arguments[0]))
    model.language_model.register_forward_hook(lambda *call: seen.update(states=call[-1].last_hidden_state))
    depth = depth_of(model, pixel_values, **prompts)
    assert depth.shape == pixel_values[:, 0].shape
    fine = seen["vision"][:, 1:].unflatten(1, (4, 4))  # without the class token
    torch.testing.assert_close(seen["patches"].unflatten(1, (2, 2))[:, 0, 1], fine[:, :2, 2:].mean((1, 2)))
    assert seen["states"].shape[1] == 7 + 4  # prompt and pooled patches


def test_a_batch_of_two_equals_two_of_one_with_pooled_patches(pixel_values, prompts):
    model = make_model(language_pooling=3)  # which does not divide the grid of 4 x 4
    together = depth_of(model, pixel_values, **prompts)
    for row in range(2):
        alone = {name: tensor[row : row + 1] for name, tensor in prompts.items()}
        torch.testing.assert_close(depth_of(model, pixel_values[row : row + 1], **alone)[0], together[row])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_map_of_the_head_lies_channels_last(batch_size):
    """A batch of one was resized to maps in the other layout, which every sum behind them then had to turn round."""
    tokens = torch.randn(batch_size, 16, 32)
    resized = resize_map(tokens_to_map(tokens, (4, 4)), (8, 8))
    assert resized.stride() == torch.empty(batch_size, 32, 8, 8).to(memory_format=torch.channels_last).stride()
    torch.testing.assert_close(map_to_tokens(tokens_to_map(tokens, (2, 8))), tokens)


def test_the_head_has_a_stage_for_every_size():
    model = make_model(vision_feature_layers=[2, 4], head_hidden_sizes=[32, 16, 8])
    assert isinstance(model.depth_head, LLMMDEDepthHead)
    assert model.depth_head.strides == [2, 1]
    assert depth_of(model, torch.randn(1, 3, 32, 40)).shape == (1, 32, 40)


@pytest.mark.slow
def test_a_channel_of_the_head_that_is_negative_everywhere_still_learns(pixel_values):
    """Trained for minutes, seven of the eight last channels were 0 at every pixel, and a floor was one flat plate."""
    model = make_model()
    last = model.depth_head.blocks[-1]
    last.register_forward_hook(lambda module, inputs, output: output - output.detach() - 1.0)
    model(pixel_values).predicted_depth.sum().backward()
    assert (last.conv2.bias.grad.abs() > 0).all()


def test_depth_of_the_head_varies_however_far_its_features_have_drifted(pixel_values):
    """Adam moved the sum of all blocks to -30 within fifty steps, where GELU is 0, and its gradient, too."""
    model = make_model()
    with torch.no_grad():
        model.depth_head.blocks[-1].conv2.bias.fill_(-30.0)
    model(pixel_values, labels=torch.rand(2, 32, 32) + 1).loss.backward()
    assert model(pixel_values).predicted_depth.std() > 1e-3
    assert model.depth_head.blocks[-1].conv2.weight.grad.abs().max() > 1e-6
    drifted = make_model(format_version=1)
    with torch.no_grad():
        drifted.depth_head.blocks[-1].conv2.bias.fill_(-30.0)
    assert drifted(pixel_values).predicted_depth.std() < 1e-5


def test_a_model_of_format_1_is_saved_and_loaded_as_it_is(tmp_path, pixel_values):
    model = make_model(format_version=1)
    assert not any("output_norm" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = LLMMDEForDepthEstimation.from_pretrained(tmp_path)
    assert again.config.format_version == 1
    assert torch.equal(model(pixel_values).predicted_depth, again(pixel_values).predicted_depth)


def test_the_head_costs_little_beside_the_encoders_at_the_sizes_of_the_paper():
    """At 224 x 224 less than 15 % of the arithmetic of a bare ViT-B and BERT over the same tokens."""
    with torch.device("meta"):
        config = LLMMDEConfig()
        model = LLMMDEForDepthEstimation(config).eval()
        vision, language = ViTModel(config.vision_config), BertModel(config.text_config)
        pixel_values = torch.empty(1, 3, 224, 224)
        tokens = torch.empty(1, len(config.default_prompt_ids) + 196, 768)
        with torch.no_grad(), FlopCounterMode(display=False) as floor:
            vision(pixel_values)
            language(inputs_embeds=tokens)
        patches = torch.empty(1, 196, 768)
        with torch.no_grad(), FlopCounterMode(display=False) as head:
            vision_maps = model.depth_head(None, [patches] * 4, (14, 14))
            model.depth_head(pixel_values, vision_maps, (14, 14), patches, (14, 14))
    assert head.get_total_flops() < 0.15 * floor.get_total_flops()
    assert sum(p.numel() for p in model.depth_head.parameters()) < 3e6


# ---------------------------------------------------------------------------------------------- precision, tools


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_depth_close_to_full_precision(model, pixel_values, prompts, dtype):
    expected = depth_of(model, pixel_values, **prompts)
    depth = depth_of(model.to(dtype), pixel_values, **prompts)
    assert depth.dtype == torch.float32
    assert ((depth - expected).abs() / expected).mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_with_finite_gradients(model, pixel_values, dtype):
    model.to(dtype).train()
    loss = model(pixel_values, labels=torch.rand(2, 32, 32) * 12).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_autocast_agrees_with_full_precision(model, pixel_values, prompts):
    labels = torch.rand(2, 32, 32) + 1
    expected = model(pixel_values, **prompts, labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(pixel_values, **prompts, labels=labels)
    assert outputs.loss.dtype == outputs.predicted_depth.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(model, pixel_values, prompts, attn_implementation):
    expected = depth_of(model, pixel_values, **prompts)
    model.set_attn_implementation(attn_implementation)
    assert model.language_model.config._attn_implementation == attn_implementation
    torch.testing.assert_close(depth_of(model, pixel_values, **prompts), expected, rtol=0, atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients(model, pixel_values, prompts):
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        copied = copy.deepcopy(model)
        copied.config.encoder_dropout = False
        copied.train()
        if checkpointing:
            copied.gradient_checkpointing_enable()
        copied(pixel_values, **prompts, labels=torch.full((2, 32, 32), 2.0)).loss.backward()
        return {name: p.grad for name, p in copied.named_parameters() if p.grad is not None}

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("with_prompt", [True, False])
def test_the_forward_compiles_into_one_graph(model, pixel_values, prompts, with_prompt):
    inputs = prompts if with_prompt else {}
    expected = depth_of(model, pixel_values, **inputs)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(depth_of(compiled, pixel_values, **inputs), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_export_takes_any_batch(model, pixel_values, prompts):
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(
        model,
        (),
        {"pixel_values": pixel_values, **prompts},
        dynamic_shapes={"pixel_values": {0: batch}, "input_ids": {0: batch}, "attention_mask": {0: batch}},
        strict=False,
    )
    for size in (1, 2, 5):
        inputs = {
            "pixel_values": pixel_values[:1].repeat(size, 1, 1, 1),
            **{name: value[1:].repeat(size, 1) for name, value in prompts.items()},
        }
        with torch.no_grad():
            depth = exported.module()(**inputs).predicted_depth
        torch.testing.assert_close(depth, depth_of(model, **inputs), rtol=0, atol=1e-4)


def test_a_device_map_spreads_the_model(model, pixel_values, prompts, tmp_path):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path)
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path, device_map="auto")
    torch.testing.assert_close(depth_of(loaded, pixel_values, **prompts), depth_of(model, pixel_values, **prompts))


@pytest.mark.parametrize("part", ["vision_tower", "language_model", "depth_head"])
def test_a_part_may_lie_on_a_disk(part, model, pixel_values, prompts, tmp_path):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path / "model")
    device_map = {name: "cpu" for name, _ in model.named_children()} | {part: "disk"}
    options = {"device_map": device_map, "offload_folder": tmp_path / "offload"}
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path / "model", **options)
    assert torch.equal(depth_of(loaded, pixel_values, **prompts), depth_of(model, pixel_values, **prompts))


# ---------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_depth": -3.0}, "`max_depth` is -3.0"),
        ({"depth_estimation_type": "relativ"}, "`depth_estimation_type` is 'relativ'"),
        ({"language_pooling": 0}, "`language_pooling` is 0"),
    ],
)
def test_fields_that_are_set_while_loading_are_checked_as_well(overrides, message, model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        LLMMDEForDepthEstimation.from_pretrained(tmp_path, **overrides)


def test_saved_and_loaded_gives_the_same_bits(model, pixel_values, prompts, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".py"}
    for auto_class in (LLMMDEForDepthEstimation, AutoModel, AutoModelForDepthEstimation):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is LLMMDEForDepthEstimation
        assert torch.equal(depth_of(loaded, pixel_values, **prompts), depth_of(model, pixel_values, **prompts))
        assert not loaded.word_basis.weight.requires_grad
        assert all(p.requires_grad for n, p in loaded.named_parameters() if n != "word_basis.weight")


def test_half_precision_survives_saving(model, pixel_values, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(depth_of(loaded, pixel_values), depth_of(model, pixel_values))


def test_two_checkpoints_become_one_model(tmp_path, pixel_values):
    from transformers import BertTokenizer

    torch.manual_seed(0)
    config = make_config()
    vision, text = ViTModel(config.vision_config).eval(), BertModel(config.text_config).eval()
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "near", "far"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "text")

    model = LLMMDEForDepthEstimation.from_vision_text_pretrained(
        tmp_path / "vision", tmp_path / "text", num_prototypes=10, max_depth=80.0, default_prompt="near far"
    )
    assert not model.training
    assert model.config.max_depth == 80.0
    assert model.config.default_prompt_ids == [2, 5, 6, 3]
    with torch.no_grad():
        states = vision(pixel_values).last_hidden_state
        torch.testing.assert_close(model.vision_tower(pixel_values).last_hidden_state, states)
    torch.testing.assert_close(model.get_input_embeddings().weight, text.get_input_embeddings().weight)
    r = model.word_basis.weight
    words = model.get_input_embeddings().weight
    torch.testing.assert_close(r.T @ r, words.T @ words)

    model.save_pretrained(tmp_path / "both")
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path / "both")
    assert torch.equal(depth_of(loaded, pixel_values), depth_of(model, pixel_values))


def test_keywords_that_nothing_would_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`overrides` has 'max_depht', 'revision'"):
        LLMMDEForDepthEstimation.from_vision_text_pretrained(
            tmp_path / "vision", tmp_path / "text", revision="main", max_depht=80.0, num_prototypes=10
        )


def test_the_image_tower_of_a_pair_is_taken_from_its_checkpoint(tmp_path, pixel_values):
    from transformers import SiglipConfig, SiglipModel

    text = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37, vocab_size=50)
    vision = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=37)
    pair = SiglipModel(SiglipConfig(text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 8}))
    pair.save_pretrained(tmp_path / "siglip")
    BertModel(make_config().text_config).save_pretrained(tmp_path / "text")
    model = LLMMDEForDepthEstimation.from_vision_text_pretrained(
        tmp_path / "siglip", tmp_path / "text", num_prototypes=10
    )
    assert model.config.vision_config.model_type == "siglip_vision_model"
    torch.testing.assert_close(
        model.vision_tower.embeddings.patch_embedding.weight
        if hasattr(model.vision_tower, "embeddings")
        else model.vision_tower.vision_model.embeddings.patch_embedding.weight,
        pair.vision_model.embeddings.patch_embedding.weight,
    )
    assert depth_of(model, pixel_values).shape == (2, 32, 32)
    # The pooling head is neither run nor saved.
    model.save_pretrained(tmp_path / "both")
    loaded, info = LLMMDEForDepthEstimation.from_pretrained(tmp_path / "both", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]
    assert torch.equal(depth_of(loaded, pixel_values), depth_of(model, pixel_values))


def test_a_checkpoint_of_which_an_encoder_would_stay_random_is_refused(tmp_path):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37)
    text = LlamaConfig(**sizes, vocab_size=50, max_position_embeddings=64)
    seen = CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    config = LlavaConfig(text_config=text, vision_config=seen, image_token_index=5)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "llava")
    ViTModel(make_config().vision_config).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"`text` is .*llava', which has no weights for .* would be random"):
        LLMMDEForDepthEstimation.from_vision_text_pretrained(str(tmp_path / "vit"), str(tmp_path / "llava"))
    with pytest.raises(ValueError, match=r"`vision` is .*llava'"):
        LLMMDEForDepthEstimation.from_vision_text_pretrained(str(tmp_path / "llava"), str(tmp_path / "vit"))


def test_a_language_model_without_words_gets_no_prompt_made_of_special_tokens(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("llm_mde"), "propagate", True)
    config = make_config()
    ViTModel(config.vision_config).save_pretrained(tmp_path / "vit")
    BertModel(config.text_config).save_pretrained(tmp_path / "bert")
    model = LLMMDEForDepthEstimation.from_vision_text_pretrained(
        str(tmp_path / "vit"), str(tmp_path / "bert"), num_prototypes=3
    )
    assert len(model.config.default_prompt_ids) == 1
    assert "knows no word of the default prompt" in caplog.text or "has no tokenizer" in caplog.text


def test_a_new_part_missing_from_a_checkpoint_is_initialised(tmp_path, pixel_values):
    from safetensors.torch import load_file, save_file

    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith(("word_basis", "text_prototypes", "depth_head"))}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path)
    words = loaded.get_input_embeddings().weight
    torch.testing.assert_close(loaded.word_basis.weight.T @ loaded.word_basis.weight, words.T @ words)
    assert depth_of(loaded, pixel_values).isfinite().all()


# ---------------------------------------------------------------------------------------------- the authors' release


def test_one_language_model_serves_as_vocabulary_and_as_reader():
    """The release holds two copies of BERT, one for its word embeddings alone."""
    model = make_model()
    names = [name for name, _ in model.named_parameters() if "word_embeddings" in name]
    assert names == ["language_model.embeddings.word_embeddings.weight"]


def test_pooling_layers_that_nothing_reads_are_left_out():
    names = {name for name, _ in make_model().named_modules()}
    assert not any("pooler" in name for name in names)


def test_defaults_build_the_model_of_the_paper_on_the_meta_device():
    with torch.device("meta"):
        model = LLMMDEForDepthEstimation(LLMMDEConfig())
    assert model.text_prototypes.weight.shape == (1000, 768)
    assert model.feature_layers == [3, 6, 9, 12]
    new = sum(
        p.numel() for part in (model.text_prototypes, model.reprogramming, model.depth_head) for p in part.parameters()
    )
    assert new < 6e6  # the release trains 118 M
    assert isinstance(model.config.vision_config, ViTConfig)


class FloatResults(TorchDispatchMode):
    """Notes operations whose result (the first, of several) is float32: of normalisations and attention others are."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, torch.Tensor) and first.dtype == torch.float32:
            self.found.append((str(func), tuple(first.shape)))
        return result


@pytest.mark.parametrize("language_pooling", [1, 2])
def test_in_bfloat16_nothing_but_the_depth_is_computed_in_float32(language_pooling, prompts):
    model = make_model(language_pooling=language_pooling).to(torch.bfloat16)
    pixel_values = torch.randn(2, 3, 32, 40, dtype=torch.bfloat16)  # position embeddings are interpolated
    model.requires_grad_(False)
    with FloatResults() as results:
        depth = depth_of(model, pixel_values, **prompts)
    assert depth.dtype == torch.float32
    islands = [(name, shape) for name, shape in results.found if shape != tuple(depth.shape)]
    assert results.found and not islands, islands
