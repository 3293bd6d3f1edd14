"""What a region reads: shares worked out by hand, the words of `model.nearest_words`, and the patch under a pixel."""

import pytest
import torch
from torch.nn import functional as F

from llm_mde import prototype_reading
from llm_mde.prototype_reading import PrototypeReader, patch_of_pixel
from tests.conftest import make_pair


@pytest.fixture(scope="module")
def pair():
    return make_pair()


def attentions(num_heads=2, num_patches=4, num_prototypes=10) -> torch.Tensor:
    values = torch.rand(num_heads, num_patches, num_prototypes, generator=torch.Generator().manual_seed(0))
    return values / values.sum(dim=-1, keepdim=True)


def test_shares_are_means_over_heads_and_the_patches_of_the_region(pair):
    model, processor = pair
    weights = torch.zeros(2, 3, 10)
    weights[0, 0, 4], weights[1, 0, 4], weights[1, 0, 7] = 1.0, 0.5, 0.5
    weights[:, 1, 2] = 1.0
    weights[:, 2, 9] = 1.0
    reader = PrototypeReader(model, processor.tokenizer)
    # Patch 0: prototype 4 gets (1 + 0.5) / 2, prototype 7 gets 0.5 / 2. With patch 1, halves of these and 1 / 2 for 2.
    alone = [(each.prototype, each.share) for each in reader.read(weights, [0], k_prototypes=2)]
    assert alone == [(4, 0.75), (7, 0.25)]
    both = [(each.prototype, each.share) for each in reader.read(weights, slice(0, 2), k_prototypes=3)]
    assert both == [(2, 0.5), (4, 0.375), (7, 0.125)]


def test_all_prototypes_together_are_the_whole_attention(pair):
    model, processor = pair
    shares = [each.share for each in PrototypeReader(model, processor.tokenizer).read(attentions(), slice(None), 99)]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("parametrization", ["compact", "vocabulary"])
def test_words_and_scores_are_those_of_nearest_words(parametrization):
    model, processor = make_pair(prototype_parametrization=parametrization)
    found = PrototypeReader(model, processor.tokenizer).read(attentions(), slice(None), k_prototypes=10, k_words=6)
    assert sorted(each.prototype for each in found) == list(range(10))
    for each in found:
        expected = model.nearest_words(each.prototype, k=6)
        tokens = processor.tokenizer.convert_ids_to_tokens([token_id for token_id, _ in expected])
        assert [word for word, _ in each.words] == tokens
        assert [score for _, score in each.words] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_a_prototype_made_of_one_word_reads_as_that_word():
    model, processor = make_pair()
    word = processor.tokenizer.convert_tokens_to_ids("depth")
    with torch.no_grad():
        prototypes = model.text_prototypes(model.word_basis(model.get_input_embeddings().weight))
        prototypes[3] = model.get_input_embeddings().weight[word]
        _, r = prototype_reading.embedding_basis(model.get_input_embeddings().weight)
        model.text_prototypes.weight.copy_(prototype_reading.weights_in_basis(prototypes, r))
    weights = F.one_hot(torch.tensor([[3]]), 10).float()
    (only,) = PrototypeReader(model, processor.tokenizer).read(weights, [0], k_prototypes=1, k_words=1)
    assert only.words == [("depth", pytest.approx(1, abs=1e-4))]


def test_word_embeddings_are_factorised_once_until_they_change(monkeypatch):
    model, processor = make_pair()
    calls = []
    real = prototype_reading.embedding_basis
    monkeypatch.setattr(prototype_reading, "embedding_basis", lambda weight: calls.append(1) or real(weight))
    reader = PrototypeReader(model, processor.tokenizer)
    for _ in range(3):
        before = reader.read(attentions(), [0])
    assert len(calls) == 1
    model.get_input_embeddings().weight.data[20:].mul_(-1)
    after = reader.read(attentions(), [0])
    assert len(calls) == 2
    assert before != after
    assert after[0].words == [
        (processor.tokenizer.convert_ids_to_tokens(token_id), pytest.approx(score, abs=1e-5))
        for token_id, score in model.nearest_words(after[0].prototype, k=6)
    ]


def test_reading_follows_prototypes_that_are_trained_in_between():
    model, processor = make_pair()
    reader = PrototypeReader(model, processor.tokenizer)
    before = reader.read(attentions(), [0])
    torch.nn.init.normal_(model.text_prototypes.weight, generator=torch.Generator().manual_seed(5))
    after = reader.read(attentions(), [0])
    assert [each.share for each in before] == [each.share for each in after]
    assert before[0].words != after[0].words


def test_a_model_in_half_precision_reads_as_well():
    model, processor = make_pair()
    model.to(torch.bfloat16)
    (first, *_) = PrototypeReader(model, processor.tokenizer).read(attentions().bfloat16(), [1])
    assert [score for _, score in first.words] == pytest.approx(
        [score for _, score in model.nearest_words(first.prototype, 6)], abs=1e-5
    )


def test_the_attentions_of_a_forward_pass_fit(pair):
    model, processor = pair
    image = torch.randint(0, 256, (3, 40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, output_prototype_attentions=True)
    reader = PrototypeReader(model, processor.tokenizer)
    grid = reader.patch_grid(inputs["pixel_values"])
    assert grid == (4, 4)
    patch = patch_of_pixel(63, 39, (40, 64), grid)
    assert patch == outputs.prototype_attentions.shape[2] - 1
    found = reader.read(outputs.prototype_attentions[0], [patch])
    assert len(found) == 5
    assert all(0 < each.share <= 1 and len(each.words) == 6 for each in found)


def test_pooled_patches_have_the_grid_that_the_language_model_reads():
    model, processor = make_pair(max_prompt_length=246)  # 256 positions leave 10 of the 16 patches
    model.config.max_prompt_length = 246
    pixel_values = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        outputs = model(pixel_values, output_prototype_attentions=True)
    rows, columns = PrototypeReader(model, processor.tokenizer).patch_grid(pixel_values)
    assert rows * columns == outputs.prototype_attentions.shape[2] < 16


def test_a_pixel_lies_in_the_patch_that_shows_it():
    # 60 x 80 pixels in 3 x 4 patches of 20 x 20.
    found = torch.tensor([[patch_of_pixel(x, y, (60, 80), (3, 4)) for x in range(80)] for y in range(60)])
    expected = torch.arange(12).reshape(3, 4).repeat_interleave(20, dim=0).repeat_interleave(20, dim=1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("height", "width", "grid"), [(479, 641, (14, 14)), (5, 3, (14, 14)), (31, 77, (3, 7))])
def test_a_pixel_lies_in_the_patch_nearest_to_its_place_in_the_resized_photograph(height, width, grid):
    rows, columns = grid
    marks = torch.arange(rows * columns, dtype=torch.float32).reshape(1, 1, rows, columns)
    # PyTorch's "nearest-exact" looks up the cell under each pixel's centre.
    expected = F.interpolate(marks, size=(height, width), mode="nearest-exact")[0, 0]
    found = torch.tensor([[patch_of_pixel(x, y, (height, width), grid) for x in range(width)] for y in range(height)])
    assert torch.equal(found.float(), expected)


@pytest.mark.parametrize(("x", "y"), [(80, 0), (0, 60), (-1, 0), (0, -1)])
def test_no_patch_shows_a_pixel_outside_the_photograph(x, y):
    with pytest.raises(ValueError, match="outside the photograph of 80 x 60 pixels"):
        patch_of_pixel(x, y, (60, 80), (3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((attentions()[None], [0]), r"`prototype_attentions` is \(1, 2, 4, 10\)"),
        ((attentions(num_prototypes=11), [0]), r"`prototype_attentions` is \(2, 4, 11\); pass .* 10\)"),
        ((attentions(), []), r"`patches` is \[\]; pass one or more in \[0, 4\)"),
        ((attentions(), [4]), r"`patches` is \[4\]"),
        ((attentions(), [-1]), r"`patches` is \[-1\]"),
        ((attentions(), slice(9, 12)), "`patches` is slice"),
        ((attentions(), [0], 0), "`k_prototypes` is 0"),
        ((attentions(), [0], 1, 0), "`k_words` is 0"),
        ((attentions(), [0], 1, 10**6), "`k_words` is 1000000"),
    ],
)
def test_what_is_no_region_of_one_image_is_refused(arguments, message, pair):
    model, processor = pair
    with pytest.raises(ValueError, match=message):
        PrototypeReader(model, processor.tokenizer).read(*arguments)
