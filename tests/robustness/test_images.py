"""Any image ends in depth of its own size, or in one line that names `images`: in memory, in files, on a page."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers import pipeline

from llm_mde.cli import main
from llm_mde.page.uploads import MAX_BYTES, Refusal, read_upload
from llm_mde.prediction_files import PredictionLog
from llm_mde.processing.image_inputs_llm_mde import read_photograph
from tests.conftest import make_pair
from tests.robustness.hostile_images import (
    FORMATS,
    HEIGHT,
    WIDTH,
    Case,
    array_cases,
    encoded,
    file_cases,
    other_cases,
    picture,
)


@pytest.fixture(scope="module")
def estimate(tiny_folder):
    return pipeline("depth-estimation", model=str(tiny_folder), trust_remote_code=True)


def is_depth_of(case: Case):
    """Whether a result of the pipeline is depth in metres of the case's size."""

    def is_right(result) -> bool:
        depth = result["predicted_depth"]
        return tuple(depth.shape) == case.size and bool((depth > 0).all()) and bool(depth.isfinite().all())

    return None if case.size is None else is_right


def named_npy(case: Case) -> bool:
    return case.name.endswith("called .npy")


def outcome_fits(case: Case, outcome: str) -> bool:
    return case.either or outcome == ("refused" if case.size is None else "handled")


@pytest.mark.slow
def test_every_image_in_memory_is_read_or_refused(estimate, tally, tmp_path):
    counts = tally("images in memory, through the pipeline")
    for case in array_cases():
        outcome = counts.attempt(case.name, lambda case=case: estimate(case.make()), is_depth_of(case), "`images`")
        if not outcome_fits(case, outcome):
            counts.count("wrong", f"{case.name}: {outcome}")
    counts.check(least=300)


def test_what_is_no_image_is_refused(tally, tmp_path):
    _, processor = make_pair()
    counts = tally("what is no image, through the processor")
    for case in other_cases(tmp_path):

        def call(case=case):
            inputs = processor(images=case.make(), prompt="depth", return_original_sizes=True, return_tensors="pt")
            return {"predicted_depth": torch.ones(tuple(inputs["original_sizes"][0].tolist()))}

        if case.name == "nothing":
            continue  # the processor also takes texts alone
        outcome = counts.attempt(case.name, call, is_depth_of(case), "`images`")
        assert outcome == "wrong" or outcome_fits(case, outcome), case.name
    counts.check(least=25)


@pytest.mark.slow
def test_every_file_is_read_or_refused(estimate, tally, tmp_path):
    counts = tally("image files, through the pipeline")
    for case in file_cases(tmp_path):
        outcome = counts.attempt(
            case.name, lambda case=case: estimate(str(case.make())), is_depth_of(case), "`images`"
        )
        if not outcome_fits(case, outcome):
            counts.count("wrong", f"{case.name}: {outcome}")
    counts.check(least=150)


@pytest.mark.slow
def test_the_command_predicts_every_file_or_tells_why_not(tiny_folder, tally, tmp_path, capsys):
    folder, counts = tmp_path / "photos", tally("image files, through llm-mde predict")
    folder.mkdir()
    cases = {}
    for case in file_cases(folder):
        path = case.make()
        cases[str(path.rename(path.with_name(f"{path.name}.png")))] = case
    words = [str(folder), "--model", str(tiny_folder), "--output", str(tmp_path / "out"), "--formats", "npy"]
    with pytest.raises(SystemExit) as stop:
        main(["predict", *words, "--num_workers", "0"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    rows = PredictionLog(tmp_path / "out").read().values()
    assert {row["input"] for row in rows} == set(cases)
    for row in rows:
        case, is_done = cases[row["input"]], row["status"] == "done"
        # Under another name the content decides, of which an array is none.
        size = None if case.name == "an array" else case.size or (named_npy(case) and (HEIGHT, WIDTH))
        is_right = is_done and (row["height"], row["width"]) == size
        is_clear = not is_done and "\n" not in row["error"] and "`images`" in row["error"]
        fits = case.either or is_done == bool(size)
        outcome = "handled" if is_right and fits else "refused" if is_clear and fits else "wrong"
        counts.count(outcome, f"{case.name}: {row}")
    counts.check(least=150)


@pytest.mark.slow
def test_the_page_reads_every_file_or_says_what_to_do(tally, tmp_path):
    counts = tally("image files, uploaded to the Space")
    for case in file_cases(tmp_path):
        # Gradio keeps no name that matters, so the page goes by the content.
        is_npy = case.name == "an array"
        size = None if is_npy else (HEIGHT, WIDTH) if named_npy(case) else case.size

        def is_right(upload, size=size) -> bool:
            return upload.levels.shape == (*size, 3)

        outcome = counts.attempt(
            case.name, lambda case=case: read_upload(case.make()), None if size is None else is_right, refusal=Refusal
        )
        if not case.either and outcome != ("refused" if size is None else "handled"):
            counts.count("wrong", f"{case.name}: {outcome}")
    (tmp_path / "heavy.png").write_bytes(bytes(MAX_BYTES + 1))
    counts.attempt("too many bytes", lambda: read_upload(tmp_path / "heavy.png"), None, "MB", Refusal)
    counts.check(least=150)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_stand_as_other_programs_show_them(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif)))
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_photograph(image).levels.permute(1, 2, 0).numpy(), expected)


def test_sixteen_bits_and_transparency_look_in_the_pipeline_as_in_the_processor(estimate):
    """The stock pipeline clips 16 bits at 255 and shows what lies behind transparent pixels."""
    model, processor = make_pair()
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16))
    clear = Image.fromarray(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8))
    for image in (deep, clear):
        inputs = processor(images=image, return_tensors="pt", return_prompt=True)
        result = estimate(image)
        assert result["prompt"] == inputs.pop("prompt")[0]
        with torch.no_grad():
            outputs = model(**inputs)
        (expected,) = processor.post_process_depth_estimation(outputs, [(HEIGHT, WIDTH)])
        torch.testing.assert_close(result["predicted_depth"], expected["predicted_depth"], rtol=0, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(FORMATS), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8))
def test_bytes_changed_anywhere_give_a_picture_or_a_refusal(format, changes, tally, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a header may now announce anything
    content = bytearray(encoded(picture(), format))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    import base64

    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"

    def is_right(photograph) -> bool:
        with Image.open(io.BytesIO(content)) as image:
            return sorted(photograph.levels.shape[1:]) == sorted(image.size)

    counts = tally("image files with bytes changed at random")
    counts.attempt(f"{format} {changes}", lambda: read_photograph(source), is_right, "`images`")
    counts.check(least=1)


def test_a_server_that_sends_without_end_is_left(monkeypatch):
    """By the number of bytes, which is small here."""
    import http.server
    import threading

    from llm_mde.processing import image_inputs_llm_mde as inputs

    monkeypatch.setattr(inputs, "_LARGEST_DOWNLOAD", 10_000)

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1000))
            except OSError:  # it was left
                pass

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ValueError, match=r"`images` contains .* has more than"):
            read_photograph(f"http://127.0.0.1:{server.server_port}/photo.png")
        server.shutdown()


def test_a_file_name_of_the_longest_kind_is_predicted_or_told(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for length in (200, 250):
        picture().save(f"photos/{'a' * (length - 4)}.png")
    (Path("photos") / "line\nbreak \x1b[31m.png").write_bytes(encoded(picture(), "PNG"))
    shutil.copy("photos/" + "a" * 196 + ".png", b"photos/\xff.png")  # a name that is no UTF-8
    Path("photos/bad\x1b[31m.png").write_text("no picture")
    with pytest.raises(SystemExit) as stop:
        main(["predict", "photos", "--model", str(tiny_folder), "--output", "out", "--num_workers", "0"])
    assert stop.value.code == 1
    rows = PredictionLog(Path("out")).read()
    problems = [row for row in rows.values() if row["status"] != "done"]
    assert sorted(len(row["input"]) for row in problems) == [len("photos/bad\x1b[31m.png"), 257]
    assert len(rows) == 5
    printed = capsys.readouterr().out
    assert "too long" in printed
    assert "\x1b" not in printed
