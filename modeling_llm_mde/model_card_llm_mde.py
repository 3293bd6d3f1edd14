"""The card of a model on the Hub, as far as the model itself can tell: what it is, its units, how it is loaded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from .configuration_llm_mde import LLMMDEConfig

PIPELINE_TAG = "depth-estimation"
TAGS = ("llm-mde", "depth", "monocular-depth-estimation", "custom_code")
OLDEST_TRANSFORMERS = "5.17"
ANY_COMMIT = "a branch, a tag, or a commit's hash, which pins code and weights"
CITATION = """```bibtex
@article{xia2024large,
  title   = {Large Language Models Can Understanding Depth from Monocular Images},
  author  = {Xia, Zhongyi and Wu, Tianzhao},
  journal = {arXiv preprint arXiv:2409.01133},
  year    = {2024}
}
```"""

_ENCODER_NAMES = {
    "albert": "ALBERT",
    "bert": "BERT",
    "deit": "DeiT",
    "dinov2": "DINOv2",
    "dinov2_with_registers": "DINOv2 with registers",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "modernbert": "ModernBERT",
    "opt": "OPT",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "roberta": "RoBERTa",
    "siglip_vision_model": "SigLIP",
    "vit": "ViT",
}


def basic_model_card(config: "LLMMDEConfig", num_parameters: int, repo_id: str | None = None) -> ModelCard:
    """
    The card of a model of which nothing else is known: neither its data nor its errors.

    Args:
        config ([`LLMMDEConfig`]): The model's.
        num_parameters (`int`): All of its weights, as `model.num_parameters()` counts them.
        repo_id (`str`, *optional*): Where it is published; the examples name it. By default they read the folder that
            they are run in.

    Returns:
        `huggingface_hub.ModelCard`: Without a licence, which is for the publisher to state.
    """
    data = ModelCardData(library_name="transformers", pipeline_tag=PIPELINE_TAG, tags=tags_of(config))
    sections = {
        "Quick start": quick_start(config, repo_id),
        "Outputs and units": outputs_and_units(config),
        "Training and evaluation": (
            "This card was written from the model alone: how its weights came about, and how far its depth is off, "
            "is not recorded here."
        ),
        "Size": f"{num_parameters:,} weights: {describe_parts(config)}.",
        "Limits": limits(config),
        "Licence": licence(None),
        "Citation": CITATION,
    }
    return join_card(data, title_of(repo_id), introduction(config), sections)


def join_card(data: ModelCardData, title: str, beginning: str, sections: Mapping[str, str]) -> ModelCard:
    """Front matter, title, what it is, and the sections in their order."""
    body = "\n\n".join([f"# {title}", beginning, *(f"## {name}\n\n{text}" for name, text in sections.items())])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def title_of(repo_id: str | None, otherwise: str = "LLM-MDE") -> str:
    """What a card is headed with: the name of its repository."""
    return otherwise if repo_id is None else repo_id.rpartition("/")[-1]


def tags_of(config: "LLMMDEConfig") -> list[str]:
    """What the model is found by on the Hub."""
    return [*TAGS, f"{config.depth_estimation_type}-depth"]


def introduction(config: "LLMMDEConfig") -> str:
    """What the model is, in two sentences."""
    promise = "depth in metres from one photograph"
    if config.depth_estimation_type == "relative":
        promise = "depth up to one unknown factor for each image, from one photograph"
    return (
        f"LLM-MDE ([arXiv 2409.01133](https://arxiv.org/abs/2409.01133)): {promise}. A vision transformer sees the "
        "photograph, a language model reads it as patches after a prompt about it, and a convolutional head turns "
        "both into depth."
    )


def install(config: "LLMMDEConfig", *others: str) -> str:
    """The line that installs what the model needs; its own code comes with it."""
    packages = [f'"transformers>={OLDEST_TRANSFORMERS}"', "torch", "torchvision", *others]
    if config.vision_config.model_type == "timm_wrapper":
        packages.append("timm")
    return f"```bash\npip install {' '.join(packages)}\n```"


def quick_start(
    config: "LLMMDEConfig", repo_id: str | None, revision: str | None = None, photograph: str | None = None
) -> str:
    """
    Lines that run as they stand, in a process that has Transformers and not this package.

    Args:
        config ([`LLMMDEConfig`]): The model's.
        repo_id (`str`, *optional*): The repository; by default the lines read the folder that they are run in.
        revision (`str`, *optional*): Of the repository; defaults to its main branch.
        photograph (`str`, *optional*): A file of the repository to look at; by default a file of the reader's.
    """
    name = "." if repo_id is None else repo_id
    lines = ["from transformers import pipeline", ""]
    load = f'pipeline("depth-estimation", model="{name}", trust_remote_code=True)'
    source = f'"{photograph}"' if photograph is not None else '"room.jpg"'
    remark = "" if photograph is not None else "  # a photograph of yours: a file, a URL or a PIL image"
    note = "Run it in this folder, or put the folder's path, or the id of its repository, in place of the dot."
    if repo_id is not None:
        lines += [f'model, revision = "{name}", "{revision or "main"}"']
        load = 'pipeline("depth-estimation", model=model, revision=revision, trust_remote_code=True)'
        note = f"`revision` is {ANY_COMMIT}: `trust_remote_code=True` runs the `.py` files of this repository."
        if photograph is not None:
            lines = ["from huggingface_hub import hf_hub_download", *lines]
            source = f"hf_hub_download(model, {source}, revision=revision)"
    lines += [
        f"estimate = {load}",
        f"result = estimate({source}){remark}",
        'depth = result["predicted_depth"]  # torch.Tensor (height, width), float32',
        "print(f\"{depth.min():.2f} to {depth.max():.2f}; the prompt was: {result['prompt']}\")",
        'result["depth"].save("depth.png")  # a picture: black is near, white is far',
    ]
    code = "\n".join(lines)
    return f"{install(config)}\n\n```python\n{code}\n```\n\n{note}"


def outputs_and_units(config: "LLMMDEConfig") -> str:
    """What comes out, in which unit and range."""
    unit = f"z-depth in **metres**, float32, between {config.min_depth:g} m and {config.max_depth:g} m"
    if config.depth_estimation_type == "relative":
        unit = "depth up to **one unknown factor for each image**, float32, positive; larger is farther, not metres"
    return f"""| where | what |
|---|---|
| `result["predicted_depth"]`, `outputs.predicted_depth` | {unit}, at the size of the photograph from the pipeline |
| `result["depth"]` | a picture of 8 bits, stretched between the nearest and the farthest point: **not metres** |
| `result["prompt"]` | what the language model was told about the photograph |

z-depth is the distance along the camera's viewing direction, not along the ray of a pixel."""


def describe_parts(config: "LLMMDEConfig") -> str:
    """Encoders, prototypes and patches in words."""
    vision, text = config.vision_config, config.text_config
    patch = getattr(vision, "patch_size", None)
    patches = f" on patches of {patch} x {patch} pixels" if isinstance(patch, int) else ""
    parametrization = "of all words" if config.prototype_parametrization == "vocabulary" else "on a basis of all words"
    return (
        f"{_encoder(vision)}{patches}, {_encoder(text)}, {config.num_prototypes} text prototypes {parametrization}, "
        "reprogramming and depth head"
    )


def limits(config: "LLMMDEConfig") -> str:
    """What the model cannot know, as a list."""
    points = [
        "It does not know the camera. The same scene through a longer lens looks nearer, and the depth scales with "
        "it: the scale is right for cameras like those of the training photographs.",
        "The depth of scenes unlike the training photographs is a guess. Nothing says how sure it is: measure on "
        "photographs of your own before you rely on it, and never where people can come to harm.",
    ]
    if config.depth_estimation_type == "metric":
        points.append(f"Nothing can be farther than {config.max_depth:g} m to it; what is comes out nearer.")
    if config.use_prompt:
        points.append(
            "The prompt's words about depth come from grey levels (dark counts as near, as in the paper): a "
            "heuristic, not a measurement."
        )
    return "\n".join(f"- {point}" for point in points)


def licence(name: str | None) -> str:
    """Of the weights, as far as it was stated, and of the code that travels with them."""
    of_weights = "Its publisher has stated no licence for the weights; ask before you use them for more than a look."
    if name is not None:
        of_weights = f"The weights: `{name}`, as their publisher states."
    return f"{of_weights} The code (`.py` files) is Apache-2.0."


def _encoder(config) -> str:
    if config.model_type == "timm_wrapper":
        return f"`{config.architecture}` of timm"
    name = _ENCODER_NAMES.get(config.model_type, config.model_type)
    layers, width = (getattr(config, field, None) for field in ("num_hidden_layers", "hidden_size"))
    return name if layers is None or width is None else f"{name} with {layers} layers of width {width}"


__all__ = [
    "ANY_COMMIT",
    "CITATION",
    "PIPELINE_TAG",
    "basic_model_card",
    "describe_parts",
    "install",
    "introduction",
    "join_card",
    "licence",
    "limits",
    "outputs_and_units",
    "quick_start",
    "tags_of",
    "title_of",
]
