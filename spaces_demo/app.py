"""The page of an LLM-MDE Space: metric depth from one photograph. `python app.py` starts it.

Which model it shows is in `llm_mde.page.settings`, what it computes in `llm_mde.page.estimator`, what it shows of that
in `llm_mde.page.views`. Here are the layout, and what happens when the visitor does something.
"""

import functools
import html
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import spaces  # before PyTorch, parts of which it replaces under ZeroGPU
except ImportError:
    spaces = None

import gradio as gr
from gradio.utils import get_upload_folder

from llm_mde.page import views
from llm_mde.page.downloads import camera_of, field_of_view, write_depth_files, write_scene_files
from llm_mde.page.estimator import MAX_PROMPT_CHARACTERS, DepthEstimate, DepthEstimator, load_estimator
from llm_mde.page.settings import NO_ADAPTER, SpaceSettings, read_space_settings
from llm_mde.page.uploads import MAX_BYTES, MAX_PIXELS, Refusal, read_upload
from llm_mde.processing.photographs import Camera

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
KEPT_SECONDS = 3600  # uploads and results, after which they are deleted
COLOUR_MAPS = {
    "Turbo": "turbo",
    "Viridis": "viridis",
    "Inferno": "inferno",
    "Cividis, for colour blindness": "cividis",
    "Grey, dark is near": "gray",
}
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # nothing is fetched from elsewhere
logger = logging.getLogger("space")


@functools.cache
def settings() -> SpaceSettings:
    return read_space_settings(os.environ, HERE)


@functools.cache
def load_model() -> DepthEstimator:
    """The model of the settings, on the accelerator if there is one."""
    chosen = settings()
    is_zero_gpu = spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
    zero_gpu = {"on_accelerator": spaces.GPU, "device": "cuda"} if is_zero_gpu else {}
    return load_estimator(chosen.model, chosen.revision, chosen.adapters, **zero_gpu)


def predict(
    path: str | Path, folder: Path, prompt: str | None = None, fov: float | None = None, adapter: str | None = None
) -> tuple[dict, list[Path]]:
    """
    Estimates one photograph and writes everything that can be taken away.

    Args:
        path (`str` or `Path`): The photograph.
        folder (`Path`): Where to write.
        prompt (`str`, *optional*): Instead of the one that is written from the photograph.
        fov (`float`, *optional*): Horizontal field of view in degrees; else EXIF's, else an assumed one.
        adapter (`str`, *optional*): Instead of the base alone.

    Returns:
        `tuple[dict, list[Path]]`: A summary, with depth in metres, and the files: 16-bit PNG in millimetres, NPY in
        metres, GLB, PLY.

    Raises:
        Refusal: If the visitor has to choose something else.
    """
    estimator = load_model()
    estimate = estimator.estimate(read_upload(path), prompt, adapter)
    depth, camera = estimator.metres(estimate), camera_of(estimate, fov)
    files = [*write_depth_files(folder, depth), *write_scene_files(folder, estimator, estimate, camera)]
    summary = {
        "units": "metres",
        **{name: round(metres, 4) for name, metres in views.depth_range(depth).items()},
        "width": estimate.size[1],
        "height": estimate.size[0],
        "prompt": estimate.prompt,
        "prompt_tokens": estimate.num_tokens,
        "prompt_tokens_read": min(estimate.num_tokens, estimator.processors[adapter].max_prompt_length),
        "camera": camera.source,
        "field_of_view_degrees": round(field_of_view(camera.intrinsics, estimate.size[1]), 2),
        "model": settings().name,
        "revision": settings().revision,
        "adapter": adapter,
        "device": str(estimator.device),
        "milliseconds": round(estimate.milliseconds, 1),
    }
    return summary, files


def friendly(handler: Callable) -> Callable:
    """The handler, whose failures reach the page as one sentence beside all that is shown, never as a stack trace."""

    @functools.wraps(handler)
    def run(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            # No `gr.Error`: it would cover every output of the event, which still holds the last good result.
            gr.Warning(html.escape(sentence(error, handler)))
            return gr.skip()

    return run


def sentence(error: Exception, handler: Callable) -> str:
    """What to tell whoever asked; what they cannot mend goes to the log."""
    if isinstance(error, Refusal):
        return str(error)
    logger.error("%s failed", handler.__name__, exc_info=error)
    return "This did not work; the log of the server says why."


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder in Gradio's cache, whose files are deleted after `KEPT_SECONDS`; after a failure it goes at once."""
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob("tmp*"):  # Gradio deletes files alone
        with suppress(OSError):  # it is not empty, or another call was faster
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.rmdir()
    folder = Path(tempfile.mkdtemp(dir=cache))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def uploaded(photograph: dict | None) -> Path:
    """Where Gradio has put an upload. It comes unopened (`preprocess=False`): Gradio would fail on a bad file."""
    path = Path(str(photograph.get("path"))).resolve() if isinstance(photograph, dict) else HERE
    # Gradio checks the paths of uploads alone, and what is none a client says itself.
    if not any(path.is_relative_to(folder) for folder in (EXAMPLES, Path(get_upload_folder()).resolve())):
        raise Refusal("Please choose a photograph first.")
    if not path.is_file():
        raise Refusal("This photograph is no longer here: uploads are kept for an hour. Please choose it again.")
    return path


def present(estimate: DepthEstimate | None) -> DepthEstimate:
    if estimate is None:
        raise Refusal("Please estimate the depth of a photograph first. Results are kept for an hour.")
    return estimate


def as_adapter(name: str | None) -> str | None:
    return None if name in (None, "", NO_ADAPTER) else str(name)


def as_angle(value: str | float | None) -> float | None:
    """Degrees, also as people write them: `60,5` or `90°`."""
    written = "" if value is None else str(value).strip()
    try:
        return float(written.removesuffix("°").replace(",", ".")) if written else None
    except ValueError:  # also of True, which is no number of degrees
        raise Refusal("The field of view has to be a number of degrees, such as 60.") from None


def as_camera(estimate: DepthEstimate, fov: str, intrinsics: str) -> Camera:
    try:
        numbers = [float(word) for word in intrinsics.replace(",", " ").split()]
    except ValueError:
        raise Refusal("Please give fx fy cx cy in pixels, such as 525 525 319.5 239.5.") from None
    return camera_of(estimate, as_angle(fov), numbers or None)


def download(path: Path) -> dict:
    return gr.update(value=str(path), interactive=True)


def shown(estimate: DepthEstimate, points: list, cmap: str) -> tuple:
    """A new estimate on the page, and nothing of the one before."""
    estimator = load_model()
    # What was read and its column and row. Without a reading they are left alone: Gradio gives a tab its results once
    # that is opened, on a slow machine seconds after it, and would wipe out what was entered by then.
    read = [""] * 4 if points else [gr.skip()] * 4
    return (
        estimate,
        *views.coloured(estimator, estimate, cmap),
        views.facts(estimator, estimate),
        estimate.prompt,
        views.prompt_note(estimator, estimate),
        *([], estimate.picture),  # points
        *read,
        *(None, None, None, ""),  # comparison of prompts
        *[gr.update(interactive=False)] * 4,  # downloads, until they are written
        *(None, ""),  # surface and its camera
    )


@friendly
def on_estimate(photograph: dict | None, adapter: str, points: list, cmap: str) -> tuple:
    upload = read_upload(uploaded(photograph))
    return shown(load_model().estimate(upload, adapter=as_adapter(adapter)), points, cmap)


@friendly
def on_prompt(estimate: DepthEstimate | None, prompt: str, points: list, cmap: str) -> tuple:
    return shown(load_model().with_prompt(present(estimate), prompt), points, cmap)


@friendly
def on_compare(estimate: DepthEstimate | None, prompt: str, cmap: str) -> tuple:
    estimator, estimate = load_model(), present(estimate)
    if prompt != estimate.prompt:
        estimate = estimator.with_prompt(estimate, prompt)
    pictures, table = views.compared(estimator, estimate, cmap)
    return *pictures, table


@friendly
def on_colours(estimate: DepthEstimate | None, cmap: str) -> tuple:
    return (None, "") if estimate is None else views.coloured(load_model(), estimate, cmap)


@friendly
def on_files(estimate: DepthEstimate | None) -> list:
    """After every new estimate."""
    with new_folder() as folder:
        files = write_depth_files(folder, load_model().metres(present(estimate)))
    return [download(path) for path in files]


@friendly
def on_scene(estimate: DepthEstimate | None, fov: str, intrinsics: str) -> tuple:
    return surface_seen(estimate, as_camera(present(estimate), fov, intrinsics))


@friendly
def on_camera(estimate: DepthEstimate | None, points: list, fov: str, intrinsics: str) -> tuple:
    camera = as_camera(present(estimate), fov, intrinsics)
    return *surface_seen(estimate, camera), views.reading(load_model(), estimate, points, camera)


def surface_seen(estimate: DepthEstimate, camera: Camera) -> tuple:
    """The surface, it and its points to take away, and the camera they rest on."""
    with new_folder() as folder:
        glb, ply = write_scene_files(folder, load_model(), estimate, camera)
    return str(glb), download(glb), download(ply), views.camera_note(camera, estimate.size[1])


@friendly
def on_click(estimate: DepthEstimate | None, points: list, fov: str, intrinsics: str, click: gr.SelectData) -> tuple:
    (height, width), (x, y) = present(estimate).picture.shape[:2], click.index
    column, row = int((x + 0.5) * estimate.size[1] / width), int((y + 0.5) * estimate.size[0] / height)
    return measured(estimate, points, column, row, as_camera(estimate, fov, intrinsics))


@friendly
def on_pixel(estimate: DepthEstimate | None, points: list, fov: str, intrinsics: str, column: str, row: str) -> tuple:
    camera = as_camera(present(estimate), fov, intrinsics)
    try:
        column, row = int(column), int(row)
    except (TypeError, ValueError):
        raise Refusal("Please enter a column and a row, whole numbers such as 12 and 34.") from None
    return measured(estimate, points, column, row, camera)


def measured(estimate: DepthEstimate, points: list, column: int, row: int, camera: Camera) -> tuple:
    """One more pixel is chosen; after two it starts anew."""
    height, width = estimate.size
    if not (0 <= column < width and 0 <= row < height):
        raise Refusal(f"Columns go from 0 to {width - 1} and rows from 0 to {height - 1} in this photograph.")
    points, estimator = [*(points if len(points) < 2 else []), (column, row)], load_model()
    return (
        points,
        views.marked(estimate, points),
        views.reading(estimator, estimate, points, camera),
        views.region(estimator, estimate, column, row),
        column,
        row,
    )


@friendly
def on_clear(estimate: DepthEstimate | None) -> tuple:
    return [], None if estimate is None else estimate.picture, "", "", "", ""


def on_predict(
    photograph: dict, prompt: str | None = None, fov: float | None = None, adapter: str | None = None
) -> list:
    """Depth of a photograph in metres: a summary, a 16-bit PNG in millimetres, an NPY in metres, a surface as GLB and
    its points as PLY. `prompt` replaces the one that is written from the photograph, `fov` is the horizontal field of
    view in degrees, `adapter` one of those that the page offers."""
    try:
        path, fov = uploaded(photograph), as_angle(fov)
        with new_folder() as folder:
            summary, files = predict(path, folder, str(prompt) if prompt else None, fov, as_adapter(adapter))
        return [summary, *map(str, files)]
    except Exception as error:
        raise gr.Error(sentence(error, on_predict), print_exception=False) from None


def build_demo() -> gr.Blocks:
    """The page."""
    private = {"api_visibility": "private"}
    with gr.Blocks(
        title="LLM-MDE: metric depth from one photograph",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 6, KEPT_SECONDS),
    ) as demo:
        # On the server: no client can set a State.
        estimate, points = gr.State(time_to_live=KEPT_SECONDS), gr.State([])
        gr.Markdown(heading())
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                photograph = gr.Image(
                    label="Photograph", type="filepath", image_mode=None, height=360, buttons=[], elem_id="photograph"
                )
                adapters = load_model().adapters
                adapter = gr.Dropdown(
                    [NO_ADAPTER, *adapters],
                    value=NO_ADAPTER,
                    label="Adapter",
                    visible=bool(adapters),
                    filterable=False,  # else the list stays open behind whoever leaves it with the tab key
                    elem_id="adapter",
                )
                button = gr.Button("Estimate depth", variant="primary", elem_id="estimate")
                examples = [[str(path)] for path in sorted(EXAMPLES.glob("*.jpg"))]
                if examples:
                    gr.set_static_paths(EXAMPLES)  # shown from where they are, wherever this was started
                    chosen = gr.Examples(examples, photograph, label="Examples", cache_examples=False, **private)
            with gr.Column(scale=7, min_width=300):
                slider = gr.ImageSlider(
                    label="Photograph and depth", format="png", interactive=False, max_height=460, elem_id="slider"
                )
                scale = gr.HTML(elem_id="legend")
                numbers = gr.HTML(elem_id="facts")
        with gr.Row():
            cmap = gr.Dropdown(
                list(COLOUR_MAPS.items()), value="turbo", label="Colours", filterable=False, elem_id="colours"
            )
            # Here and below: Gradio's Number cannot be empty, it would send 0.
            fov = gr.Textbox(
                label="Field of view across, in degrees", placeholder="EXIF's, else 60", max_lines=1, elem_id="fov"
            )
            intrinsics = gr.Textbox(
                label="or intrinsics, in pixels", placeholder="fx fy cx cy", max_lines=1, elem_id="intrinsics"
            )
            use_camera = gr.Button("Use this camera", size="sm", min_width=140, elem_id="use-camera")
        camera_text = gr.HTML(elem_id="camera")

        with gr.Tabs():
            # First: Gradio does not draw what a Model3D was given before its tab was opened.
            with gr.Tab("3D"):
                scene = gr.Model3D(
                    label="Surface in metres", display_mode="solid", interactive=False, height=460, elem_id="scene"
                )
                with gr.Row():
                    glb = gr.DownloadButton("Surface, GLB in metres", interactive=False, elem_id="glb")
                    ply = gr.DownloadButton("Points, PLY in metres", interactive=False, elem_id="ply")
            with gr.Tab("Measure"):
                gr.Markdown("Click a pixel for its depth, and a second one for the distance between the two.")
                with gr.Row():
                    with gr.Column(scale=6, min_width=300):
                        picture = gr.Image(
                            label="Click here",
                            format="png",
                            interactive=False,
                            height=420,
                            buttons=[],
                            elem_id="picture",
                        )
                        picture.alt_text = "The photograph, to click; or enter column and row"  # gradio 6.31
                    with gr.Column(scale=5, min_width=300):
                        with gr.Row():
                            column = gr.Textbox(label="Column", max_lines=1, min_width=100, elem_id="column")
                            row = gr.Textbox(label="Row", max_lines=1, min_width=100, elem_id="row")
                        with gr.Row():
                            read = gr.Button("Read this pixel", min_width=120, elem_id="read-pixel")
                            clear = gr.Button("Clear points", min_width=120, elem_id="clear-points")
                        answer = gr.HTML(elem_id="reading")
                        words = gr.HTML(elem_id="region")
            with gr.Tab("Prompt"):
                prompt = gr.Textbox(
                    label="Prompt, written from this photograph; change it if you like",
                    lines=4,
                    max_length=MAX_PROMPT_CHARACTERS,
                    elem_id="prompt",
                )
                prompt_text = gr.HTML(elem_id="prompt-note")
                with gr.Row():
                    with_prompt = gr.Button("Estimate with this prompt", variant="primary", elem_id="with-prompt")
                    compare = gr.Button("Compare with the default prompt and with none", elem_id="compare")
                with gr.Row():
                    looks = [
                        gr.Image(
                            label=label,
                            format="png",
                            interactive=False,
                            height=260,
                            min_width=80,
                            buttons=[],
                            elem_id=name,
                        )
                        for label, name in (
                            ("This prompt", "look-this"),
                            ("Default prompt", "look-default"),
                            ("No prompt", "look-none"),
                        )
                    ]
                differences = gr.HTML(elem_id="differences")
            with gr.Tab("Files"), gr.Row():
                png = gr.DownloadButton("Depth, 16-bit PNG in millimetres", interactive=False, elem_id="png")
                npy = gr.DownloadButton("Depth, NPY in metres", interactive=False, elem_id="npy")
        gr.Markdown(explanation())

        results = [estimate, slider, scale, numbers, prompt, prompt_text, points, picture, answer, words]
        results += [column, row]
        results += [*looks, differences, png, npy, glb, ply, scene, camera_text]
        camera, surface = [fov, intrinsics], [scene, glb, ply, camera_text]
        unopened = {"inputs": [photograph, adapter, points, cmap], "outputs": results, "preprocess": False, **private}
        button.click(on_estimate, **unopened)
        with_prompt.click(on_prompt, [estimate, prompt, points, cmap], results, **private)
        if examples:
            chosen.load_input_event.then(on_estimate, **unopened)
        # Not after these events but after a new estimate: where one was refused there is nothing to write.
        written = estimate.change(on_files, estimate, [png, npy], **private)
        written.then(on_scene, [estimate, *camera], surface, **private)
        given = [use_camera.click, fov.submit, intrinsics.submit]
        gr.on(given, on_camera, [estimate, points, *camera], [*surface, answer], **private)
        cmap.change(on_colours, [estimate, cmap], [slider, scale], **private)
        compare.click(on_compare, [estimate, prompt, cmap], [*looks, differences], **private)
        pixel = [points, picture, answer, words, column, row]
        picture.select(on_click, [estimate, points, *camera], pixel, **private)
        entered = [estimate, points, *camera, column, row]
        gr.on([read.click, column.submit, row.submit], on_pixel, entered, pixel, **private)
        clear.click(on_clear, estimate, pixel, **private)

        # For programs alone, with components of its own.
        asked = [
            photograph,
            gr.Textbox(label="Prompt, else written from the photograph", visible=False),
            gr.Number(label="Field of view across, in degrees, else EXIF's or 60", visible=False),
            gr.Textbox(label="Adapter, else none", visible=False),
        ]
        contents = ("Depth, 16-bit PNG in millimetres", "Depth, NPY in metres", "Surface, GLB in metres")
        answers = [gr.File(label=label, visible=False) for label in (*contents, "Points, PLY in metres")]
        answers.insert(0, gr.JSON(label="Summary, depth in metres", visible=False))
        gr.Button(visible=False).click(on_predict, asked, answers, api_name="predict", preprocess=False)
    return demo.queue(default_concurrency_limit=2, max_size=32)


def heading() -> str:
    """What the page does, and with which model."""
    chosen, model = settings(), load_model().model
    revision = f" at `{chosen.revision}`" if chosen.revision else ""
    encoders = f"{model.config.vision_config.model_type} and {model.config.text_config.model_type}"
    return (
        "# Metric depth from one photograph\n"
        "A vision transformer sees the photograph, a language model reads it after a prompt about it, and both become "
        "depth in metres ([LLM-MDE](https://arxiv.org/abs/2409.01133)). "
        f"Model: **{views.escaped(chosen.name)}**{revision} ({encoders}, {model.num_parameters() / 1e6:.3g} million "
        f"weights). {chosen.note}"
    )


def explanation() -> str:
    config = load_model().model.config
    return f"""
### What the numbers mean
Depth is the distance in metres along the viewing direction, between {config.min_depth:g} and {config.max_depth:g} m,
estimated from one photograph. A model is metric for cameras and scenes like those it was trained with; the same scene
through a longer lens looks nearer to it. The field of view changes distances and the 3D shape, not the depth. Where
none is given, the focal length in the photograph's EXIF is taken, else 60 degrees are assumed.

The prompt is written from the photograph's pixel values. Its depth word is a guess from brightness, not a measurement.
What a patch reads are the text prototypes that it attends to, the mean of all attention heads, with the words nearest
to each. With a language model that was not pretrained these words mean nothing.

The surface is torn where depth jumps, and has at most 400 points along a side. The 16-bit PNG holds millimetres up to
65.535 m, 0 beyond; the NPY holds float32 metres. Both have the size of the photograph.

Photographs of up to {MAX_PIXELS / 1e6:.0f} megapixels and {MAX_BYTES / 1e6:.0f} MB are read. They and the results are
deleted from this server after about an hour. Programs call the endpoint `/predict`: the address
[`?view=api`](?view=api) of this page says how.
"""


def main() -> int:
    """Starts the page; 2, with one line on stderr, if there is no model to show."""
    try:
        demo = build_demo()
    except (ValueError, ImportError, OSError) as error:
        print(f"app.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    demo.launch(
        theme=gr.themes.Default(primary_hue="indigo", font=FONTS, font_mono=["ui-monospace", "monospace"]),
        css=views.CSS,
        max_file_size=MAX_BYTES,
        footer_links=["api", "settings"],
        ssr_mode=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
