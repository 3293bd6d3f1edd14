"""Protocols: which pixels count, and what a name stands for."""

import json
import math

import pytest
import torch

from llm_mde.evaluation import PROTOCOLS, EvaluationProtocol, get_protocol, match_depth
from llm_mde.evaluation.protocols import crop_window


def window(crop, height, width):
    rows, columns = crop_window(crop, height, width)
    return rows.start, rows.stop, columns.start, columns.stop


def test_the_presets_are_those_of_the_field():
    limits = {name: (protocol.min_depth, protocol.max_depth) for name, protocol in PROTOCOLS.items()}
    assert limits == {
        "plain": (1e-3, 10.0),
        "nyu-eigen": (1e-3, 10.0),
        "kitti-garg": (1e-3, 80.0),
        "kitti-eigen": (1e-3, 80.0),
        "affine": (1e-3, 10.0),
        "authors-minmax": (0.0, math.inf),
    }
    assert [name for name, protocol in PROTOCOLS.items() if not protocol.comparable] == ["authors-minmax"]
    assert not any(protocol.flip_averaging for protocol in PROTOCOLS.values())


def test_the_protocol_of_nyu_says_against_what_papers_measure():
    description = PROTOCOLS["nyu-eigen"].description
    assert "`rawDepths`" in description and "black border" in description


def test_crops_are_the_windows_of_their_papers():
    assert window("nyu-eigen", 480, 640) == (45, 471, 41, 601)
    # 0.40810811 * 375 = 153.04, 0.99189189 * 375 = 371.96, 0.03594771 * 1242 = 44.65, 0.96405229 * 1242 = 1197.35
    assert window("garg", 375, 1242) == (153, 371, 44, 1197)
    # 0.3324324 * 375 = 124.66, 0.91351351 * 375 = 342.57
    assert window("eigen", 375, 1242) == (124, 342, 44, 1197)
    # 0.40810811 * 352 = 143.65, 0.99189189 * 352 = 349.15, 0.03594771 * 1216 = 43.71, 0.96405229 * 1216 = 1172.29
    assert window("garg", 352, 1216) == (143, 349, 43, 1172)
    assert window(None, 7, 9) == (0, 7, 0, 9)


@pytest.mark.parametrize(
    ("name", "size", "num_pixels"),
    [
        ("nyu-eigen", (480, 640), (471 - 45) * (601 - 41)),
        ("kitti-garg", (375, 1242), (371 - 153) * (1197 - 44)),
        ("kitti-eigen", (375, 1242), (342 - 124) * (1197 - 44)),
        ("plain", (48, 64), 48 * 64),
    ],
)
def test_only_pixels_inside_the_crop_count(name, size, num_pixels):
    labels = torch.full((1, *size), 5.0)
    matched = match_depth(labels, labels, get_protocol(name))
    assert int(matched.valid.sum()) == num_pixels
    if name == "nyu-eigen":
        assert matched.valid[0, 45, 41] and matched.valid[0, 470, 600]
        assert not matched.valid[0, 44, 41] and not matched.valid[0, 471, 600]
        assert not matched.valid[0, 45, 40] and not matched.valid[0, 470, 601]


def test_the_crop_of_nyu_on_another_size_is_refused_with_a_way_out():
    labels = torch.ones(1, 240, 320)
    with pytest.raises(ValueError, match=r"240 x 320.*crop=None"):
        match_depth(labels, labels, get_protocol("nyu-eigen"))


def test_the_prediction_is_resized_to_the_labels():
    predicted, labels = torch.tensor([[[1.0, 2.0]]]), torch.ones(1, 1, 4)

    def resized(**overrides):
        return match_depth(predicted, labels, get_protocol("plain", **overrides)).predicted[0, 0].tolist()

    # Pixel centres at 1/4 of a coarse pixel from its own: 1, 1 + 1/4, 2 - 1/4, 2; with corners at thirds.
    assert resized() == pytest.approx([1, 1.25, 1.75, 2])
    assert resized(align_corners=True) == pytest.approx([1, 4 / 3, 5 / 3, 2])
    assert resized(interpolation="nearest") == [1, 1, 2, 2]
    assert resized(interpolation="bicubic")[0] < 1  # overshoots at an edge


def test_clamping_follows_its_reference():
    predicted = torch.tensor([[[-1.0, 0.0, 5.0, 99.0, math.inf, -math.inf, math.nan]]])
    labels = torch.full_like(predicted, 5.0)
    matched = match_depth(predicted, labels, get_protocol("plain", clamp=True))
    assert matched.predicted.flatten().tolist() == [1e-3, 1e-3, 5, 10, 10, 1e-3, 1e-3]


def test_what_differs_from_a_preset_becomes_part_of_its_name():
    assert get_protocol("plain") is not None and get_protocol("plain").name == "plain"
    assert get_protocol("plain", max_depth=10.0).name == "plain"
    assert get_protocol("plain", max_depth=80.0).name == "plain (max_depth=80.0)"
    changed = get_protocol("nyu-eigen", flip_averaging=True)
    assert changed.name == "nyu-eigen (flip_averaging=True)"
    assert get_protocol(changed) == changed
    assert get_protocol("plain", name="mine", max_depth=5.0).name == "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"crop": "centre"}, "`crop` is 'centre'; choose one of None, nyu-eigen, garg, eigen"),
        ({"alignment": "mean"}, "`alignment` is 'mean'"),
        ({"interpolation": "area"}, "`interpolation` is 'area'"),
        ({"interpolation": "nearest", "align_corners": True}, "`align_corners` is True"),
        ({"alignment": "scale-shift-depth"}, "set `clamp=True`"),
        ({"alignment": "min-max"}, "use the protocol 'authors-minmax'"),
        ({"clamp": True, "min_depth": 0.0}, "`clamp` is True"),
        ({"max_depth": 0.0}, "`max_depth` 0.0"),
        ({"cap": 80}, "no field `cap`"),
    ],
)
def test_a_wrong_field_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        get_protocol("plain", **overrides)


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'nyu'; choose one of plain, nyu-eigen"):
        get_protocol("nyu")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_can_be_written_down(name):
    protocol = PROTOCOLS[name]
    fields = json.loads(json.dumps(protocol.to_dict(), allow_nan=False))
    fields["max_depth"] = math.inf if fields["max_depth"] is None else fields["max_depth"]
    assert EvaluationProtocol(**fields) == protocol
    assert protocol.description
    assert ("NOT COMPARABLE" in protocol.summary()["protocol"]) == (name == "authors-minmax")


def test_maps_that_do_not_pair_are_refused():
    protocol = get_protocol("plain")
    with pytest.raises(ValueError, match="2 maps and `labels` 1"):
        match_depth(torch.ones(2, 3, 3), torch.ones(1, 3, 3), protocol)
    with pytest.raises(ValueError, match="for both"):
        match_depth(torch.ones(3, 3), torch.ones(1, 3, 3), protocol)
