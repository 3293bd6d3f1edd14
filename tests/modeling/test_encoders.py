"""Every supported vision encoder and language model, in tiny form."""

import copy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    ResNetConfig,
    RobertaConfig,
    SiglipVisionConfig,
    T5Config,
    TimmWrapperConfig,
    ViTConfig,
)

from llm_mde import LLMMDEForDepthEstimation
from tests.conftest import VOCAB_SIZE, make_config, make_model

VIT = dict(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=37, image_size=32, patch_size=8
)
VISION = {
    "vit": ViTConfig(**VIT),
    "deit": DeiTConfig(**VIT),
    "dinov2": Dinov2Config(**{**VIT, "mlp_ratio": 2}),
    "dinov2-registers": Dinov2WithRegistersConfig(**{**VIT, "mlp_ratio": 2, "num_register_tokens": 4}),
    "siglip": SiglipVisionConfig(**VIT),
    "timm": TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args={"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
    ),
}
SPECIAL_TOKENS = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2-registers": 5, "siglip": 0, "timm": 1}

LM = dict(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37)
ROTARY = dict(**LM, num_key_value_heads=1, head_dim=16, max_position_embeddings=64)
OPT = {name: value for name, value in LM.items() if name != "intermediate_size"}
OPT |= {"ffn_dim": 37, "max_position_embeddings": 64}
LANGUAGE = {
    "bert": BertConfig(**LM, max_position_embeddings=64),
    "distilbert": DistilBertConfig(
        vocab_size=VOCAB_SIZE, dim=32, n_layers=2, n_heads=2, hidden_dim=37, max_position_embeddings=64
    ),
    "roberta": RobertaConfig(**LM, max_position_embeddings=66, pad_token_id=1),
    "modernbert": ModernBertConfig(
        **LM, max_position_embeddings=64, local_attention=4, pad_token_id=0, eos_token_id=2, cls_token_id=1
    ),
    "albert": AlbertConfig(**LM, embedding_size=16, max_position_embeddings=64),
    "electra": ElectraConfig(**LM, embedding_size=16, max_position_embeddings=64),
    "gpt2": GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1),
    "opt": OPTConfig(**OPT, word_embed_proj_dim=32),
    "opt-projected": OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False),  # as opt-350m
    "llama": LlamaConfig(**ROTARY),
    "qwen2": Qwen2Config(**LM, num_key_value_heads=1, max_position_embeddings=64),
    "qwen3": Qwen3Config(**ROTARY),
}


def tokens_before_patches(model, pixel_values) -> int:
    rows, columns = model.vision_layout.grid(pixel_values)
    return model.vision_tower(pixel_values).last_hidden_state.shape[1] - rows * columns


@pytest.mark.parametrize("name", VISION)
def test_any_vision_encoder_gives_a_depth_for_every_pixel(name, pixel_values):
    model = make_model(vision_config=VISION[name])
    assert tokens_before_patches(model, pixel_values) == SPECIAL_TOKENS[name]
    with torch.no_grad():
        assert model(pixel_values).predicted_depth.shape == (2, 32, 32)
        wide = torch.randn(1, 3, 24, 56)
        assert model(wide).predicted_depth.shape == (1, 24, 56)


@pytest.mark.parametrize("name", VISION)
def test_every_patch_reaches_the_language_model_and_no_special_token_does(name, pixel_values):
    """The authors' release drops the last patch and keeps the class token."""
    model = make_model(vision_config=VISION[name])
    seen = []
    model.reprogramming.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        model(pixel_values)
        expected = model.vision_tower(pixel_values).last_hidden_state[:, SPECIAL_TOKENS[name] :]
    torch.testing.assert_close(seen[0], expected)
    assert seen[0].shape[1] == 16


@pytest.mark.parametrize("name", VISION)
def test_a_vision_encoder_survives_saving_and_loading(name, pixel_values, tmp_path):
    model = make_model(vision_config=VISION[name])
    model.save_pretrained(tmp_path)
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).predicted_depth, model(pixel_values).predicted_depth)


@pytest.mark.parametrize("name", VISION)
def test_a_composed_vision_encoder_is_the_one_that_is_saved(name, pixel_values, tmp_path):
    AutoModel.from_config(VISION[name]).save_pretrained(tmp_path / "vision")
    AutoModel.from_config(LANGUAGE["bert"]).save_pretrained(tmp_path / "text")
    model = LLMMDEForDepthEstimation.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), num_prototypes=10, default_prompt_ids=[2]
    )
    model.save_pretrained(tmp_path / "both")
    loaded, info = LLMMDEForDepthEstimation.from_pretrained(tmp_path / "both", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]
    with torch.no_grad():
        for image in (pixel_values, torch.randn(1, 3, 24, 56)):
            assert torch.equal(loaded(image).predicted_depth, model(image).predicted_depth)


def with_dropout(name: str) -> dict:
    """A configuration of this encoder that drops out a lot, by the name of its part; the other part does not."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = copy.deepcopy(VISION[name] if name in VISION else LANGUAGE[name])
    fields = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "resid_pdrop")
    for field in fields:
        if hasattr(config, field):
            setattr(config, field, 0.5)
    if name == "timm":
        config.model_args = config.model_args | {"proj_drop_rate": 0.5}
    if name in VISION:
        return {"vision_config": config, "text_config": BertConfig(**LM | quiet, max_position_embeddings=64)}
    return {"vision_config": VISION["vit"], "text_config": config}


@pytest.mark.parametrize("name", [*VISION, *LANGUAGE])
def test_an_encoder_drops_out_in_training_unless_that_is_turned_off(name, pixel_values):
    model = make_model(**with_dropout(name))
    with torch.no_grad():
        evaluated = model(pixel_values).predicted_depth
        assert not torch.equal(model.train()(pixel_values).predicted_depth, evaluated)
        model.config.encoder_dropout = False
        assert torch.equal(model.train()(pixel_values).predicted_depth, evaluated)
    assert model.training and model.depth_head.training


@pytest.mark.parametrize("is_enabled_first", [True, False])
def test_encoders_without_dropout_are_still_checkpointed(is_enabled_first, pixel_values):
    model = make_model(encoder_dropout=False)
    if is_enabled_first:
        model.gradient_checkpointing_enable()
        model.train()
    else:
        model.train()
        model.gradient_checkpointing_enable()
    calls = []
    for encoder in (model.vision_tower, model.language_model):
        query = next(module for module in encoder.modules() if isinstance(module, torch.nn.Linear))
        query.register_forward_hook(lambda module, *_: calls.append(module))
    model(pixel_values, labels=torch.full((2, 32, 32), 2.0)).loss.backward()
    assert len(calls) == 4  # forwards, and once more on the way back


def test_gradient_checkpointing_reaches_an_encoder_of_timm():
    model = make_model(vision_config=VISION["timm"])
    timm_model = model.vision_tower.timm_model
    assert not timm_model.grad_checkpointing
    model.gradient_checkpointing_enable()
    assert timm_model.grad_checkpointing
    model.gradient_checkpointing_disable()
    assert not timm_model.grad_checkpointing


def test_an_encoder_of_timm_with_relative_positions_is_built_at_its_own_size():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
    model = make_model(
        vision_config=TimmWrapperConfig(architecture="vit_relpos_small_patch16_224", model_args=options)
    )
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).predicted_depth.shape == (1, 32, 32)


def test_an_encoder_of_timm_behind_a_cnn_is_refused():
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    with pytest.raises(ValueError, match="of the maps of a CNN"):
        make_model(vision_config=TimmWrapperConfig(architecture="vit_tiny_r_s16_p8_224", model_args=options))


@pytest.mark.parametrize("name", LANGUAGE)
def test_batch_of_two_equals_two_batches_of_one(name, pixel_values, prompts):
    model = make_model(text_config=LANGUAGE[name])
    with torch.no_grad():
        both = model(pixel_values, **prompts).predicted_depth
        first = model(pixel_values[:1], input_ids=prompts["input_ids"][:1]).predicted_depth
        second = model(pixel_values[1:], input_ids=prompts["input_ids"][1:, 3:]).predicted_depth
    torch.testing.assert_close(both, torch.cat([first, second]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LANGUAGE)
def test_padding_on_the_right_equals_padding_on_the_left(name, pixel_values, prompts):
    model = make_model(text_config=LANGUAGE[name])
    right = {key: torch.stack([value[0], value[1].roll(-3)]) for key, value in prompts.items()}
    assert right["attention_mask"].tolist() == [[1] * 7, [1] * 4 + [0] * 3]
    with torch.no_grad():
        left_depth = model(pixel_values, **prompts).predicted_depth
        right_depth = model(pixel_values, **right).predicted_depth
    torch.testing.assert_close(right_depth, left_depth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_prompt_and_the_patches_both_matter(name, pixel_values, prompts):
    model = make_model(text_config=LANGUAGE[name])
    with torch.no_grad():
        depth = model(pixel_values, **prompts).predicted_depth
        other_prompt = model(pixel_values, input_ids=prompts["input_ids"] + 30).predicted_depth
        swapped = model(pixel_values.flip(0), **prompts).predicted_depth
    assert (depth - other_prompt).abs().max() > 1e-5
    assert (depth - swapped).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["albert", "roberta", "modernbert", "gpt2", "llama"])
def test_a_language_model_survives_saving_and_loading(name, pixel_values, prompts, tmp_path):
    model = make_model(text_config=LANGUAGE[name])
    model.save_pretrained(tmp_path)
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(
            loaded(pixel_values, **prompts).predicted_depth, model(pixel_values, **prompts).predicted_depth
        )


@pytest.mark.parametrize("name", LANGUAGE)
def test_patches_beyond_the_positions_are_pooled_instead_of_crashing(name):
    model = make_model(text_config=LANGUAGE[name], max_prompt_length=8)
    assert model.config.max_language_patches == 56
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 80, 160), output_prototype_attentions=True)  # 10 x 20 patches
    assert outputs.predicted_depth.shape == (1, 80, 160)
    assert outputs.prototype_attentions.shape[2] == 5 * 11  # the largest grid of about that shape below 56


def test_a_pooled_picture_still_shows_every_patch_to_the_head():
    model = make_model(max_prompt_length=8)
    pixel_values = torch.zeros(1, 3, 80, 160)
    changed = pixel_values.clone()
    changed[..., :8, :8] += 1  # one patch, which pooling averages with its neighbours
    with torch.no_grad():
        difference = (model(changed).predicted_depth - model(pixel_values).predicted_depth).abs()[0]
    assert difference[:8, :8].mean() > 3 * difference[40:, 80:].mean()


def test_an_encoder_without_patches_is_refused():
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    with pytest.raises(ValueError, match="vision_config"):
        make_model(vision_config=resnet)
    with pytest.raises(ValueError, match=r"vision_config\.architecture"):
        make_model(vision_config=TimmWrapperConfig(architecture="resnet18"))


def test_an_encoder_decoder_language_model_is_refused():
    with pytest.raises(ValueError, match=r"text_config.*encoder-decoder"):
        make_config(text_config=T5Config())


def test_an_encoder_made_for_an_oblong_reads_that_size_and_refuses_others():
    """Transformers interpolates the position embeddings of a ViT from a square grid only."""
    model = make_model(vision_config=ViTConfig(**{**VIT, "image_size": (24, 40)}))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 24, 40)).predicted_depth.shape == (1, 24, 40)
    with pytest.raises(
        ValueError, match=r"`pixel_values` is \(32, 32\) but the vision encoder was made for \(24, 40\)"
    ):
        model(torch.randn(1, 3, 32, 32))
