"""Two tokenizers built in memory: one like BERT's, one like GPT's."""

import re

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llm_mde.processing.prompting_llm_mde import DEPTH_WORDS, ImageStatistics, write_prompt

WORDS = sorted(
    {
        word
        for depth_word in DEPTH_WORDS
        for word in re.findall(r"\w+|[^\w\s]", write_prompt(ImageStatistics(0, 0, 0, depth_word)).lower())
    }
    | {"a", "street", "scene", "up", "to", "lens", "of", "mm", "kitchen", "lower", "newer", *map(str, range(256))}
)


def make_bert_tokenizer(**kwargs) -> PreTrainedTokenizerFast:
    """WordPiece with [CLS] ... [SEP], token types and padding on the right, as saved by BERT."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{letter}" for letter in "abcdefghij")]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary.index("[CLS]")), ("[SEP]", vocabulary.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        padding_side="right",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **kwargs,
    )


def make_gpt_tokenizer(**kwargs) -> PreTrainedTokenizerFast:
    """Whole words, no special token around a text, an end token and no pad token."""
    vocabulary = ["<|endoftext|>", "<unk>", *WORDS]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    kwargs = {"eos_token": "<|endoftext|>", "unk_token": "<unk>", "model_max_length": 512, **kwargs}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **kwargs)


@pytest.fixture
def bert_tokenizer() -> PreTrainedTokenizerFast:
    return make_bert_tokenizer()


@pytest.fixture
def gpt_tokenizer() -> PreTrainedTokenizerFast:
    return make_gpt_tokenizer()
