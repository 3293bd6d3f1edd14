"""The sections as they are run, on networks with next to no weights: rows, references, and what every target needs."""

import math
import os
import sys
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
import torch

from benchmarks.command import run_sections
from benchmarks.contenders import Floor, build_processor
from benchmarks.machine import GemmRate
from benchmarks.record import RESULTS_FILE, Results, read_results
from benchmarks.sections import (
    compiled,
    end_to_end,
    gpu,
    growth,
    inference,
    loader,
    memory,
    parts,
    profile,
    startup,
    training,
)
from benchmarks.targets import AUTHORS, FLOOR, PAPER, TARGETS
from benchmarks.weighing import weigh
from llm_mde.presets import PRESETS
from llm_mde.studies.memory import peak_memory_mb
from tests.benchmarks.conftest import GEMM, MACHINE, SIZES, make_contender, make_peer

SMALL = {"paper": {}, "fast": {"language_pooling": 2}}


@pytest.fixture
def small(monkeypatch):
    """Every section gets small networks, and processes of its own are this one."""
    contenders = {name: make_contender(name, 66 if name == "paper" else 21, **SMALL[name]) for name in SMALL}
    for module in (inference, memory, training, gpu):
        monkeypatch.setattr(module, "preset_contenders", lambda: list(contenders.values()))
    for module in (compiled, parts, end_to_end, growth, profile, startup):
        monkeypatch.setattr(module, "preset_contender", contenders.__getitem__)
    for module in (inference, memory):
        monkeypatch.setattr(module, "PEERS", (make_peer(),))
    peaks = count(1000.0, 10.0)  # MB: this process may have room from earlier tests, which nothing that is new fills
    for module in (memory, training):
        monkeypatch.setattr(module, "weigh", lambda work: work())
        monkeypatch.setattr(module, "resident_mb", lambda device: 500.0)
        monkeypatch.setattr(module, "peak_memory_mb", lambda device: next(peaks))
    monkeypatch.setattr(compiled.torch, "compile", lambda module: module)
    monkeypatch.setattr(startup, "_CODE", {startup.OURS: "pass", startup.PEER: "pass"})
    for module in (inference, compiled, training, parts, end_to_end, growth, startup, gpu):
        monkeypatch.setattr(module, "_SECONDS", math.inf)  # no test depends on how fast a machine is
    monkeypatch.setattr(gpu, "_ROUNDS_FOR_ONE", 2)
    monkeypatch.setattr(growth, "SIDES", (224, 1024))
    monkeypatch.setattr(training, "SIZE", SIZES["224x224"])
    return contenders


@pytest.mark.slow
def test_every_contender_of_a_setting_has_as_many_rounds_and_a_reference(small, bench):
    rows = [row for row in inference.measure(replace(bench, is_full=True)) if row.not_measured is None]
    by_setting = {}
    for row in rows:
        by_setting.setdefault(row.setting, []).append(row)
    assert {setting: len(group) for setting, group in by_setting.items()} == {
        "224x224, batch 1, float32": 5,
        "224x224, batch 4, float32": 4,
        "480x640, batch 1, float32": 5,
        "518x518, batch 1, float32": 4,
        "480x640, batch 4, float32": 4,
        "518x518, batch 4, float32": 3,
    }
    for group in by_setting.values():
        assert len({len(row.seconds) for row in group}) == 1
        assert {row.reference for row in group} <= {None, *(row.contender for row in group)}
    of_fast = next(row for row in rows if row.contender == "LLM-MDE fast")
    assert of_fast.reference == "floor of LLM-MDE fast"
    (peer, *_) = (row for row in rows if row.setting == "480x640, batch 1, float32" and "Depth" in row.contender)
    assert (peer.reads, peer.reference) == ("28x42", FLOOR)


def test_a_minute_long_round_is_warmed_up_by_a_small_image():
    plans = [inference.Plan(size, batch_size) for size in SIZES for batch_size in (1, 4)]
    warmed = {plan.setting: plan.warm_up.setting for plan in plans if plan.warm_up != plan}
    small = "224x224, batch 1, float32"
    assert warmed == {
        "480x640, batch 4, float32": small,
        "518x518, batch 1, float32": small,
        "518x518, batch 4, float32": small,
    }


@pytest.mark.slow
def test_a_batch_counts_its_arithmetic_and_its_images(small, bench):
    rows = {(row.setting, row.contender): row for row in inference.measure(bench)}
    one, four = (rows[f"224x224, batch {size}, float32", PAPER] for size in (1, 4))
    assert four.numbers["gflop"] == pytest.approx(4 * one.numbers["gflop"])
    assert (one.images, four.images) == (1, 4)


@pytest.mark.slow
def test_bfloat16_is_measured_where_the_machine_multiplies_it(small, bench):
    slow = [row for row in inference.measure(bench) if "bfloat16" in row.setting]
    assert [(row.contender, row.not_measured) for row in slow] == 2 * [("all", GEMM.refusal_of_bfloat16)]
    able = replace(bench, gemm=GemmRate(40.0, 80.0))
    fast = [row for row in inference.measure(able) if "bfloat16" in row.setting]
    assert len(fast) == 8 and all(row.seconds for row in fast)


@pytest.mark.slow
def test_whole_runs_reach_every_target(small, bench, tmp_path, monkeypatch):
    class AlsoSmall:
        """Stands for the release: what its step is compared by is its name and its rows."""

        def __new__(cls, folder):
            return replace(small["paper"], name=AUTHORS)

    monkeypatch.setattr(training, "Authors", AlsoSmall)
    monkeypatch.setattr(inference, "Authors", AlsoSmall)
    monkeypatch.setattr(memory, "Authors", AlsoSmall)
    able = replace(bench, gemm=GemmRate(40.0, 80.0), authors=tmp_path)
    names = ["inference", "compiled", "memory", "training", "parts", "end_to_end", "growth", "startup"]
    assert run_sections(names, able, Results(MACHINE, {}), tmp_path, "command") == 0
    results = read_results(tmp_path / RESULTS_FILE)
    findings = {target.aim: target.find(results) for target in TARGETS}
    assert {aim: finding.reason for aim, finding in findings.items() if finding.value is None} == {}
    assert all(finding.value > 0 for aim, finding in findings.items() if "memory" not in aim and "import" not in aim)


@pytest.mark.slow
def test_what_a_run_leaves_out_is_told(small, bench):
    quick = replace(bench, is_quick=True)
    rows = {row.setting: row.not_measured for row in inference.measure(quick)}
    assert rows["224x224, batch 1, float32"] is None
    assert rows["480x640, batch 1, float32"] == rows["518x518, batch 4, float32"] == "left out by --quick"
    (row,) = compiled.measure(quick)
    assert "--quick leaves out torch.compile" in row.not_measured
    assert [row.contender for row in training.measure(quick)] == [PAPER, FLOOR, "all", "all", "all"]
    assert [row.contender for row in growth.measure(quick)] == 2 * [PAPER, growth.TOWER] + ["all"]
    usual = {row.setting: row.not_measured for row in inference.measure(bench)}
    assert usual["480x640, batch 1, float32"] is None
    assert usual["480x640, batch 4, float32"] == "four such images take minutes; --full measures them"


def test_a_compiler_that_fails_is_a_reason(small, bench, monkeypatch):
    def fail(module):
        def forward(**inputs):
            raise RuntimeError("no C++\ncompiler")

        return torch.nn.Module() if module is None else _Callable(forward)

    monkeypatch.setattr(compiled.torch, "compile", fail)
    rows = {row.contender: row for row in compiled.measure(bench)}
    assert rows[f"{PAPER}, compiled"].not_measured == "torch.compile fails: no C++ compiler"
    assert len(rows[PAPER].seconds) == len(rows[FLOOR].seconds) == 2


class _Callable(torch.nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def test_further_images_take_further_memory():
    numbers = weigh(partial(memory.weigh_forward, make_contender(), (512, 512), (1, 2, 6)))
    assert numbers["peak_memory_mb"] > numbers["memory_above_libraries_mb"]
    assert 1 < numbers[memory.PER_IMAGE] < 1000
    assert memory.PER_IMAGE not in memory.weigh_forward(make_contender(), (64, 64), (1,))


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    ballast = torch.ones(250_000_000)
    numbers = weigh(partial(training.weigh_steps, make_contender(), (32, 32), (1, 2)))
    assert 0 < numbers[1]["peak_memory_mb"] <= numbers[2]["peak_memory_mb"]
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ  # of that process alone
    assert numbers[2]["peak_memory_mb"] < peak_memory_mb(ballast.device) - 500


def test_a_photograph_becomes_metres_at_its_resolution(small, tmp_path):
    path = tmp_path / "photograph.jpg"
    end_to_end.make_photograph((480, 640)).save(path)
    model = small["paper"].build()
    depth = end_to_end.predict_metres(model, build_processor("paper"), path)
    assert depth.shape == (480, 640)
    assert model.config.min_depth <= depth.min() and depth.max() <= model.config.max_depth
    calls = end_to_end.preset_calls("fast", path)
    assert list(calls)[:4] == ["LLM-MDE fast", "floor of LLM-MDE fast", end_to_end.MODEL, end_to_end.PROCESSOR]
    _, language_states = calls["floor of LLM-MDE fast"]()
    tokens = calls[end_to_end.PROCESSOR]()["input_ids"].shape[1]
    assert language_states.last_hidden_state.shape[1] == tokens + 49  # 14 x 14 patches, two by two


def test_frames_made_here_are_read_in_metres(tmp_path):
    frames = loader.RGBDFolder(loader.write_frames(tmp_path / "frames", 3, ".jpg", (48, 64)), split=None)
    assert len(frames) == 3 and frames[0].image.size == (64, 48)
    measured = frames[0].depth[frames[0].depth > 0]
    assert measured.min() >= 1 and measured.max() < 5.2
    assert measured.size / frames[0].depth.size == pytest.approx(0.9, abs=0.03)
    batch = loader.load_batch(frames, loader.DepthCollator(build_processor("paper")), loader.spread_out(3))
    assert batch["pixel_values"].shape == (8, 3, 224, 224) and len(batch["labels"]) == 8


def test_a_batch_is_taken_from_all_over_the_set():
    assert loader.spread_out(80) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert loader.spread_out(3) == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
def test_ones_own_frames_are_loaded(bench):
    rows = list(loader.measure(replace(bench, rounds=1, data=os.environ["LLM_MDE_DATA"])))
    assert [row.setting for row in rows] == [loader.MADE, loader.MADE, loader.OWN]


def test_the_adapter_has_the_size_of_what_is_trained(small):
    module = training.prepare_training(small["paper"]).module
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    assert startup.adapter_megabytes(small["paper"]) == pytest.approx(4 * trained / 1e6, rel=0.2)


def test_imports_are_timed_in_fresh_interpreters(bench, monkeypatch):
    calls = []
    monkeypatch.setattr(startup.subprocess, "run", lambda words, **options: calls.append(words))
    monkeypatch.setattr(startup, "adapter_megabytes", lambda contender: 28.0)
    rows = list(startup.measure(bench))
    assert [words[2].split()[1] for words in calls] == 3 * ["llm_mde", "transformers"]
    assert all(words[0] == sys.executable for words in calls)
    assert rows[-1].numbers == {"file_mb": 28.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_section_says_so(bench):
    (row,) = gpu.measure(bench)
    assert (row.contender, row.not_measured) == ("all", "no CUDA device")


@pytest.mark.parametrize("prepare", [gpu.prepare_inference, gpu.prepare_step])
def test_work_of_the_accelerator_runs_on_the_cpu_too(small, bench, prepare):
    contenders = [small["paper"], Floor(small["paper"])]
    prepared = partial(prepare, torch.device("cpu"), 3, compiles=False)
    rows = list(gpu.measure_in_turns("setting", contenders, prepared, bench, GEMM))
    assert [(row.contender, row.reference, row.images) for row in rows] == [(PAPER, FLOOR, 3), (FLOOR, FLOOR, 3)]
    assert all(len(row.seconds) == 4 and row.numbers["percent_of_gemm"] > 0 for row in rows)
    assert rows[1].numbers["gflop"] < rows[0].numbers["gflop"]


def test_arithmetic_of_a_batch_is_extrapolated_from_one_and_two(small):
    """Prototypes are computed once for a batch, so that three images cost less than three times one."""
    training = gpu.prepare_step(torch.device("cpu"), 3, small["paper"], compiles=False)
    inputs, labels = small["paper"].inputs(SIZES["224x224"], 3), gpu.make_labels(SIZES["224x224"], 3)
    prepared = gpu.prepare_training(small["paper"])
    assert training.flops == gpu.count_flops(partial(prepared.step, inputs, labels))


def test_a_contender_that_does_not_fit_is_left_out(small, bench):
    def prepare(contender):
        if isinstance(contender, Floor):
            return gpu.Work(lambda: None, 1, 1.0, 64)
        raise torch.OutOfMemoryError("CUDA out of memory")

    contenders = [small["paper"], Floor(small["paper"])]
    rows = {row.contender: row for row in gpu.measure_in_turns("setting", contenders, prepare, bench, GEMM)}
    assert rows[PAPER].not_measured == "out of memory"
    assert len(rows[FLOOR].seconds) > 0
    assert list(gpu.measure_in_turns("setting", [], prepare, bench, GEMM)) == []


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_section_runs_on_cuda(small, bench):
    rows = list(gpu.measure(replace(bench, is_quick=True)))
    assert rows[0].setting == gpu.CEILING
    assert {row.setting for row in rows[1:]} == {
        setting.format(size) for setting in (gpu.INFERENCE, gpu.STEP) for size in (1, 8)
    }
    assert all(row.numbers["peak_memory_mb"] > 0 for row in rows[1:])


def test_profiles_are_taken_of_both(small, bench):
    rows = list(profile.measure(bench))
    for setting in profile.SETTINGS:
        shares = {row.contender: row.numbers["percent"] for row in rows if row.setting == setting}
        assert sum(shares.values()) == pytest.approx(100)
        assert min(shares["matmul"], shares["convolution"], shares["attention"]) > 0


def test_small_stands_for_all_presets():
    assert SMALL.keys() == PRESETS.keys()
