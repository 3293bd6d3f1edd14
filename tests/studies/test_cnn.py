"""The CNN stands where LLM-MDE stands: same inputs, same kind of output, same loss."""

import pytest
import timm
import torch

from llm_mde import LLMMDEForDepthEstimation, silog_loss
from llm_mde.studies.cnn import CNNForDepthEstimation, FeatureMapProjection
from llm_mde.training.adapters import count_parameters
from tests.conftest import make_config


@pytest.fixture(scope="module")
def cnn() -> CNNForDepthEstimation:
    torch.manual_seed(0)
    return CNNForDepthEstimation(make_config(head_hidden_sizes=[32, 16, 16, 8, 8], max_depth=5.0), "resnet18").eval()


def test_it_takes_any_size_and_answers_in_metres_without_reading_a_prompt(cnn):
    pixel_values = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        plain = cnn(pixel_values).predicted_depth
        prompted = cnn(pixel_values, input_ids=torch.ones(2, 4), attention_mask=torch.ones(2, 4)).predicted_depth
    assert plain.shape == (2, 40, 56)
    assert plain.min() > 0 and plain.max() < 5
    assert torch.equal(plain, prompted)


def test_its_loss_is_that_of_llm_mde(cnn):
    pixel_values, labels = torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32) * 4
    output = cnn(pixel_values, labels=labels)
    expected = silog_loss(output.predicted_depth, labels, cnn.config.variance_focus, max_depth=5.0)
    torch.testing.assert_close(output.loss, expected)


def test_every_map_of_the_pyramid_and_the_image_reach_the_depth(cnn):
    cnn.zero_grad()
    cnn(torch.randn(1, 3, 64, 64), labels=torch.rand(1, 64, 64) + 1).loss.backward()
    untouched = [name for name, weight in cnn.named_parameters() if weight.grad is None or not weight.grad.any()]
    # timm starts the last norm of each residual block at zero, so that nothing behind it in the block has a slope yet.
    assert all(".layer" in name for name in untouched), untouched


def test_the_head_is_the_one_of_llm_mde_up_to_the_widths_that_enter_it(cnn):
    head = LLMMDEForDepthEstimation(make_config(head_hidden_sizes=[32, 16, 16, 8, 8])).depth_head
    shapes = {name: weight.shape for name, weight in head.named_parameters()}
    differing = {name for name, weight in cnn.depth_head.named_parameters() if weight.shape != shapes.pop(name)}
    assert not shapes
    assert {name.split(".")[0] for name in differing} == {"language_projection", "vision_projections"}
    assert cnn.depth_head.to_logits.bias.item() == -1


def test_a_projected_map_keeps_its_resolution():
    projection = FeatureMapProjection(width=6, channels=2)
    feature_map = torch.randn(1, 6, 3, 5)
    projected = projection(feature_map, grid=(7, 7))
    assert projected.shape == (1, 2, 3, 5)
    expected = projection.linear(projection.norm(feature_map[0, :, 2, 4]))
    torch.testing.assert_close(projected[0, :, 2, 4], expected)


def test_all_of_it_is_counted_as_trained(cnn):
    everything = sum(weight.numel() for weight in cnn.parameters())
    assert count_parameters(cnn)[-1].trainable == everything


def test_pretrained_weights_are_asked_for_and_kept(monkeypatch):
    asked = []
    create = timm.create_model

    def create_model(name, features_only, pretrained):
        asked.append(pretrained)
        network = create(name, features_only=features_only)
        torch.nn.init.constant_(network.conv1.weight, 7.0)  # as if loaded
        return network

    monkeypatch.setattr(timm, "create_model", create_model)
    config = make_config(head_hidden_sizes=[32, 16, 16, 8, 8])
    model = CNNForDepthEstimation(config, "resnet18", pretrained=True)
    assert asked == [True]
    assert (model.vision_tower.conv1.weight == 7).all()


def test_pretrained_weights_see_the_colours_they_were_trained_with():
    config = make_config(head_hidden_sizes=[32, 16, 16, 8, 8])
    model = CNNForDepthEstimation(config, "resnet18", normalised_with=([0.5] * 3, [0.5] * 3))
    seen = []
    model.vision_tower.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    photograph = torch.rand(1, 3, 32, 32)
    model.eval()(2 * photograph - 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(seen[0], (photograph - mean) / std)


@pytest.mark.parametrize(
    ("architecture", "sizes"), [("vit_tiny_patch16_224", [32, 16, 16, 8, 8]), ("resnet18", [16, 8, 8])]
)
def test_another_kind_of_network_or_head_is_refused(architecture, sizes):
    with pytest.raises(ValueError, match="resnet18"):
        CNNForDepthEstimation(make_config(head_hidden_sizes=sizes, vision_feature_layers=None), architecture)
