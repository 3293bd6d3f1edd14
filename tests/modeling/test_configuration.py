import pytest
from transformers import AutoConfig, BertConfig, RobertaConfig, T5Config, ViTConfig

from llm_mde import LLMMDEConfig
from tests.conftest import make_config


def test_the_defaults_are_those_of_the_paper():
    config = LLMMDEConfig()
    vision, text = config.vision_config, config.text_config
    assert (vision.model_type, vision.hidden_size, vision.num_hidden_layers) == ("vit", 768, 12)
    assert (vision.image_size, vision.patch_size) == (224, 16)
    assert (text.model_type, text.hidden_size, text.num_hidden_layers) == ("bert", 768, 12)
    assert config.num_prototypes == 1000
    assert config.variance_focus == 0.15


def test_the_default_prompt_is_spelled_in_the_vocabulary_of_bert():
    ids = LLMMDEConfig().default_prompt_ids
    assert ids[0] == 101  # [CLS]
    assert ids[-1] == 102  # [SEP]
    assert 20 < len(ids) <= 128


def test_a_configuration_survives_saving_and_loading(tmp_path):
    config = make_config(max_depth=80.0, vision_feature_layers=[1, 4], head_hidden_sizes=[32, 16, 8])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, LLMMDEConfig)
    assert loaded.to_json_string() == config.to_json_string()
    assert loaded.vision_config.hidden_size == 32


def test_sub_configurations_may_be_dictionaries():
    config = LLMMDEConfig(
        vision_config={"model_type": "dinov2", "hidden_size": 384},
        text_config={"model_type": "gpt2", "n_embd": 384, "n_head": 6},
    )
    assert config.vision_config.model_type == "dinov2"
    assert config.text_config.model_type == "gpt2"
    assert config.reprogramming_num_heads == 6


def test_the_files_that_travel_are_named_in_the_configuration():
    config = LLMMDEConfig()
    model = "modeling_llm_mde.LLMMDEForDepthEstimation"
    assert config.auto_map["AutoModel"] == config.auto_map["AutoModelForDepthEstimation"] == model
    assert config.custom_pipelines["depth-estimation"]["impl"] == "pipeline_llm_mde.LLMMDEDepthEstimationPipeline"


def test_patches_get_the_positions_that_prompts_leave():
    assert LLMMDEConfig().max_language_patches == 512 - 128
    assert LLMMDEConfig(use_prompt=False).max_language_patches == 512
    roberta = RobertaConfig(vocab_size=99, max_position_embeddings=514, pad_token_id=1)
    assert make_config(text_config=roberta).max_language_positions == 512


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("num_prototypes", 0, "at least 1"),
        ("num_prototypes", 2.5, "integer"),
        ("num_prototypes", True, "integer"),
        ("prototype_parametrization", "dense", "'compact' or 'vocabulary'"),
        ("reprogramming_num_heads", 5, "divisor of the word embedding size, 32"),
        ("use_prompt", "no", "True or False"),
        ("default_prompt", None, "string"),
        ("default_prompt_ids", [], "list of 1 to 16"),
        ("default_prompt_ids", [99], r"\[0, 99\)"),
        ("default_prompt_ids", [-1], r"\[0, 99\)"),
        ("max_prompt_length", 0, "at least 1"),
        ("max_prompt_length", 64, "below 64"),
        ("language_pooling", 0, "at least 1"),
        ("language_pooling", 1.5, "an integer"),
        ("vision_feature_layers", [0, 2, 3, 4], "from 1"),
        ("vision_feature_layers", [4, 3, 2, 1], "increasing"),
        ("vision_feature_layers", [1, 2], "one shorter than `head_hidden_sizes`, which has 5"),
        ("head_hidden_sizes", [32, 12], "multiples of 8"),
        ("head_hidden_sizes", [32], "at least two"),
        ("min_depth", 0, "above 0"),
        ("min_depth", float("nan"), "above 0"),
        ("max_depth", 0.0005, "above `min_depth`, 0.001"),
        ("max_depth", float("inf"), "above"),
        ("depth_estimation_type", "disparity", "'metric' or 'relative'"),
        ("variance_focus", 1.1, "between 0 and 1"),
        ("relative_weight", -1, "a number, 0 or above"),
        ("encoder_dropout", 0.1, "True or False"),
        ("initializer_range", 0, "above 0"),
        ("format_version", 3, "update the package"),
    ],
)
def test_a_field_out_of_range_is_refused_with_its_name_value_and_range(field, value, allowed):
    with pytest.raises(ValueError, match=rf"`{field}` is .*{allowed}") as error:
        make_config(**{field: value})
    assert repr(value) in str(error.value)


def test_something_that_is_no_configuration_is_refused():
    with pytest.raises(ValueError, match="`vision_config` is a str"):
        LLMMDEConfig(vision_config="google/vit-base-patch16-224")


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ValueError, match="'t5', an encoder-decoder"):
        LLMMDEConfig(text_config=T5Config())


def test_an_unknown_vocabulary_gets_a_prompt_of_one_token():
    config = LLMMDEConfig(ViTConfig(), BertConfig(vocab_size=50))
    assert config.default_prompt_ids == [0]


def test_a_short_prompt_length_cuts_the_default_prompt_as_a_tokenizer_does():
    whole = LLMMDEConfig().default_prompt_ids
    assert LLMMDEConfig(max_prompt_length=16).default_prompt_ids == [*whole[:15], whole[-1]]
