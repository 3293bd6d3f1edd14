"""`llm-mde env`: what somebody who wants to help has to know, and nothing that is nobody's business."""

import json
import platform

import pytest
import torch
import transformers

from llm_mde.cli import main
from llm_mde.environment import describe_environment, format_report
from llm_mde.hub import write_adapter_folder, write_model_folder
from tests.conftest import make_pair
from tests.training.test_record import make_record


def report_of(capsys, *words) -> str:
    main(["env", *map(str, words)])
    return capsys.readouterr().out


def test_the_report_names_machine_and_versions(capsys):
    report = report_of(capsys)
    for fact in (
        f"python: {platform.python_version()}",
        f"torch: {torch.__version__.partition('+')[0]}",
        f"transformers: {transformers.__version__}",
        f"threads: {torch.get_num_threads()}",
        "extra [train]:",
    ):
        assert fact in report


def test_json_holds_the_same(capsys):
    stored = json.loads(report_of(capsys, "--as_json", "true"))
    assert stored["environment"] == json.loads(json.dumps(describe_environment()))
    assert stored["model"] is None


def test_a_package_that_is_missing_or_too_old_is_told():
    environment = describe_environment()
    environment["lacking"], environment["extras"] = ["torch>=2.11"], {"train": ["peft>=0.20"], "demo": []}
    report = format_report(environment)
    assert "lacks: torch>=2.11\n" in report
    assert "extra [train]: lacks peft>=0.20\n" in report
    assert "extra [demo]: complete\n" in report


def test_settings_are_told_and_secrets_are_not(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    report = report_of(capsys)
    assert "OMP_NUM_THREADS=7" in report and "Hub token: set" in report
    assert "hf_secret" not in report and str(tmp_path) not in report


def test_an_address_is_told_without_who_logs_in_there(capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://jane:s3cret@mirror.example/hub")
    assert "HF_ENDPOINT=https://mirror.example/hub\n" in report_of(capsys)


def test_a_record_is_of_what_a_run_left_and_not_of_its_base(capsys, tmp_path):
    for name in ("base", "model"):
        write_model_folder(tmp_path / name, *make_pair())
    make_record().write(tmp_path)
    assert "training: lora" in report_of(capsys, "--model", tmp_path / "model")
    assert "training: no training.json" in report_of(capsys, "--model", tmp_path / "base")


def test_a_model_is_described_without_its_place(capsys, tmp_path):
    folder = write_model_folder(tmp_path / "rooms", *make_pair())
    report = report_of(capsys, "--model", folder)
    for fact in (
        "name: rooms",
        "kind: model",
        "vision encoder: vit",
        "language model: bert",
        "digest: ",
        "prototypes: 10",
    ):
        assert fact in report
    assert str(tmp_path) not in report
    assert "no training.json beside it" in report


def test_an_adapter_is_described_with_its_base(capsys, tmp_path):
    pytest.importorskip("peft")
    from llm_mde import LLMMDEForDepthEstimation
    from llm_mde.training import prepare_for_training

    model, processor = make_pair()
    base = write_model_folder(tmp_path / "base", model, processor)
    adapted = prepare_for_training(LLMMDEForDepthEstimation.from_pretrained(base), "lora")
    folder = write_adapter_folder(tmp_path / "kitchen", adapted, processor)
    report = report_of(capsys, "--model", folder)
    assert "kind: adapter (LORA)" in report and "base: base\n" in report


def test_what_is_no_model_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["env", "--model", str(tmp_path)])
    assert "llm-mde env: `name_or_path` is" in capsys.readouterr().err
