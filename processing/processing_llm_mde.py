"""Processor of LLM-MDE: a photograph becomes pixel values and the prompt that goes with it."""

import inspect
import os
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from itertools import count
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.utils import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import is_torchvision_available, logging

from .image_inputs_llm_mde import flatten_inputs
from .image_processing_llm_mde import LLMMDEImageProcessor
from .image_processing_pil_llm_mde import LLMMDEImageProcessorPil
from .prompting_llm_mde import (
    DEFAULT_DATASET_PROMPT,
    DEFAULT_TASK_PROMPT,
    PERSPECTIVES,
    ImageStatistics,
    read_statistics,
    write_prompt,
)

logger = logging.get_logger(__name__)


class LLMMDETextKwargs(TextKwargs, total=False):
    r"""
    return_prompt (`bool`, *optional*, defaults to `False`):
        Whether to add `prompt`, the list of texts that were tokenised.
    """

    return_prompt: bool


class LLMMDEProcessorKwargs(ProcessingKwargs, total=False):
    text_kwargs: LLMMDETextKwargs
    _defaults = {
        "text_kwargs": {
            "padding": True,
            "truncation": True,
            "return_attention_mask": True,
        }
    }


@dataclass(frozen=True)
class _Draft:
    """A text and the prompt written around it; without `write` the text is the prompt and not to be changed."""

    text: str
    write: Callable[[str], str] | None = None

    @property
    def prompt(self) -> str:
        return self.text if self.write is None else self.write(self.text)

    def shortened(self, fits: Callable[[str], bool]) -> str:
        """The prompt with as many of the text's first words as fit; the tokenizer cuts what is too long even so."""
        if self.write is None:
            return self.text
        words = self.text.split()

        def is_too_long(num_words: int) -> bool:
            return not fits(self.write(" ".join(words[:num_words])))

        num_words = max(0, bisect_left(range(len(words)), True, key=is_too_long) - 1)
        return self.write(" ".join(words[:num_words]))


class LLMMDEProcessor(ProcessorMixin):
    r"""Writes a prompt for every photograph from its pixels, and prepares both for LLM-MDE.

    Prompts are padded on the left, so that the patches which follow in the model's sequence lie next to the prompt's
    last word in every row; the tokenizer's `padding_side` is set accordingly. A tokenizer without a pad token pads
    with its end-of-sequence token, which the attention mask hides.

    Args:
        image_processor (`LLMMDEImageProcessor`, *optional*): For photographs and depth maps; if unset, one with its
            default settings.
        tokenizer (`PreTrainedTokenizerBase`): The language model's.
        dataset_prompt (`str`, *optional*): What kind of scenes the photographs show.
        task_prompt (`str`, *optional*): What is to be predicted.
        camera_prompt (`str`, *optional*): A sentence about the camera of all photographs.
        perspectives (`Sequence[str]`, *optional*): Sentences of the prompt: see `write_prompt`.
        prompt_style (`str`, *optional*, defaults to `"full"`): Wording of the sentences on pixels and depth class,
            `"full"` or `"short"`.
        max_prompt_length (`int`, *optional*, defaults to 128): Longest prompt in tokens. Longer ones lose words at the
            end of the dataset's sentence; if that is not enough, the tokenizer cuts them and keeps their end token.

    Raises:
        ValueError: If the tokenizer is missing, can neither pad nor fit a word into `max_prompt_length`, if the
            image processor measures no statistics, or for the reasons of `write_prompt`.

    Example:

    ```python
    >>> from llm_mde.processing import LLMMDEProcessor
    >>> from transformers import AutoTokenizer

    >>> processor = LLMMDEProcessor(tokenizer=AutoTokenizer.from_pretrained("bert-base-uncased"))
    >>> inputs = processor("street.jpg", text="A street scene up to 80 metres.", return_tensors="pt")
    >>> sorted(inputs)
    ['attention_mask', 'input_ids', 'pixel_values']
    ```
    """

    valid_processor_kwargs = LLMMDEProcessorKwargs

    def __init__(
        self,
        image_processor: LLMMDEImageProcessor | LLMMDEImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dataset_prompt: str = DEFAULT_DATASET_PROMPT,
        task_prompt: str = DEFAULT_TASK_PROMPT,
        camera_prompt: str | None = None,
        perspectives: Sequence[str] = PERSPECTIVES,
        max_prompt_length: int = 128,
        prompt_style: str = "full",
    ):
        if image_processor is None:
            image_processor = LLMMDEImageProcessor() if is_torchvision_available() else LLMMDEImageProcessorPil()
        if tokenizer is None:
            raise ValueError("`tokenizer` is None; pass the one of the language model.")
        super().__init__(image_processor, tokenizer)
        if not hasattr(image_processor, "return_statistics"):
            raise ValueError(
                f"`image_processor` is a {type(image_processor).__name__}, which measures no statistics for a prompt; "
                "pass an `LLMMDEImageProcessor` with the same settings."
            )
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError("`tokenizer` has neither a pad token nor an end token to pad with; set one of them.")
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        if max_prompt_length <= tokenizer.num_special_tokens_to_add():
            raise ValueError(
                f"`max_prompt_length` is {max_prompt_length}, but the tokenizer's special tokens alone take "
                f"{tokenizer.num_special_tokens_to_add()}; allow at least one more."
            )
        self.dataset_prompt = dataset_prompt
        self.task_prompt = task_prompt
        self.camera_prompt = camera_prompt
        self.perspectives = tuple(perspectives)
        self.prompt_style = prompt_style
        self.max_prompt_length = max_prompt_length
        # Refuses unknown perspectives and styles now rather than with the first photograph.
        _ = self._draft(None, dataset_prompt, camera_prompt).prompt

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        prompt: str | list[str] | None = None,
        depth_maps: ImageInput | None = None,
        camera: str | list[str] | None = None,
        **kwargs: Unpack[LLMMDEProcessorKwargs],
    ) -> BatchFeature:
        """Prepares photographs with their prompts, or texts alone.

        `text`, `prompt` and `camera` are one for all images, or a list with one for each. A sample without a
        photograph may stand as an empty list in a nested list of images; its text is tokenised as it stands.

        Args:
            images (*optional*): See `LLMMDEImageProcessor.preprocess`.
            text (`str` or `list[str]`, *optional*): Replaces the dataset's sentence in the prompt, for instance
                `"A street scene up to 80 metres."`. Without images, the texts to tokenise.
            prompt (`str` or `list[str]`, *optional*): Complete prompts, used as they are instead of written ones.
            depth_maps (*optional*): Measured depth of the images, which becomes `labels`.
            camera (`str` or `list[str]`, *optional*): A sentence about the camera, instead of `camera_prompt`.
            kwargs: See `LLMMDETextKwargs`, `LLMMDEImageProcessorKwargs`, `TextKwargs` and `ImagesKwargs`.

        Returns:
            `BatchFeature`: What the image processor returns, and

            - **input_ids** and **attention_mask**: int64 of shape `(batch_size, sequence_length)`, padded on the left
              to the longest prompt unless `padding` says otherwise.
            - **prompt**, with `return_prompt=True`: the texts, in a list whatever `return_tensors` is.

            `inputs.to(torch.bfloat16)` casts `labels` along with the pixel values; move them to a device alone.

        Raises:
            ValueError: If nothing is given, if texts and images differ in number, or if one argument excludes another.
        """
        _check_arguments(images, text, prompt, depth_maps, camera)
        merged_kwargs = self._merge_kwargs(
            LLMMDEProcessorKwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
        )
        text_kwargs, images_kwargs = merged_kwargs["text_kwargs"], merged_kwargs["images_kwargs"]
        return_tensors = text_kwargs.pop("return_tensors", None)
        return_prompt = text_kwargs.pop("return_prompt", False)
        # The caller may ask for more than `max_prompt_length`; a limit that was saved with the tokenizer may not.
        max_length = kwargs.get("max_length") or kwargs.get("text_kwargs", {}).get("max_length")
        text_kwargs["max_length"] = max_length or min(
            self.max_prompt_length, text_kwargs.get("max_length") or self.max_prompt_length
        )

        if images is None:
            data = {}
            texts = prompt if text is None else text
            num_texts = len(texts) if isinstance(texts, (list, tuple)) else 1
            drafts = [_Draft(each) for each in _one_for_each(texts, num_texts, "text")]
        else:
            wants_statistics = images_kwargs.get("return_statistics", self.image_processor.return_statistics)
            images_kwargs["return_statistics"] = wants_statistics or prompt is None
            data = dict(self.image_processor(images, depth_maps, **images_kwargs))
            rows = _image_rows(images, len(data["pixel_values"]))
            if prompt is None:
                drafts = self._write_drafts(data["image_statistics"], rows, text, camera)
            else:
                drafts = [_Draft(each) for each in _one_for_each(prompt, len(rows), "prompt")]
            if not wants_statistics:
                data.pop("image_statistics", None)

        prompts, encoding = self._tokenize(drafts, text_kwargs)
        data.update(encoding)
        if return_prompt:
            data["prompt"] = prompts
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["prompt"])

    def default_prompt_ids(self) -> list[int]:
        """Token ids of the prompt without a photograph's statistics, for the model's `config.default_prompt_ids`."""
        draft = self._draft(None, self.dataset_prompt, self.camera_prompt)
        _, encoding = self._tokenize([draft], {"truncation": True, "max_length": self.max_prompt_length})
        return encoding["input_ids"][0]

    def post_process_depth_estimation(
        self,
        outputs: DepthEstimatorOutput,
        target_sizes: Tensor | Sequence[tuple[int, int]] | None = None,
    ) -> list[dict[str, Tensor]]:
        """The model's depth at the size of the photographs, in metres: see the image processor's method."""
        return self.image_processor.post_process_depth_estimation(outputs, target_sizes)

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves `processor_config.json`, the tokenizer's files and, for a registered class, the code of both."""
        hub_names = inspect.signature(_publish).parameters
        for_hub = {name: kwargs.pop(name) for name in hub_names if push_to_hub and name in kwargs}
        folder = Path(save_directory)
        before = _times(folder)
        files = super().save_pretrained(save_directory, False, **kwargs)
        # Saving leaves a note of the code's files, which loading does not; without it the two stay equal.
        vars(self).pop("auto_map", None)
        if push_to_hub:
            written = [file for file, time in _times(folder).items() if before.get(file) != time]
            repo_id = for_hub.pop("repo_id", folder.resolve().name)
            _publish(written, repo_id, **for_hub)
        return files

    @wraps(ProcessorMixin.push_to_hub)
    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str | None = None, **kwargs: Any) -> CommitInfo:
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return _publish(sorted(Path(folder).glob("*")), repo_id, **kwargs)

    @property
    def unused_input_names(self) -> list[str]:
        """What some tokenizers return and the model does not read: its sequence is all of one type."""
        return ["token_type_ids"]

    def _draft(self, statistics: ImageStatistics | None, dataset: str, camera: str | None) -> _Draft:
        wording = {"perspectives": self.perspectives, "style": self.prompt_style}
        return _Draft(dataset, partial(write_prompt, statistics, task=self.task_prompt, camera=camera, **wording))

    def _write_drafts(
        self, table: Tensor, rows: list[int | None], text: str | list[str] | None, camera: str | list[str] | None
    ) -> list[_Draft]:
        """One draft for each row, from the statistics of its image; a row without an image has its text only."""
        if text is not None and "dataset" not in self.perspectives:
            raise ValueError(
                f"`text` replaces the dataset's sentence, which `perspectives={self.perspectives}` leaves out; pass a "
                "complete `prompt`, or a processor with that perspective."
            )
        statistics = read_statistics(table)
        texts = _one_for_each(self.dataset_prompt if text is None else text, len(rows), "text")
        cameras = _one_for_each(self.camera_prompt if camera is None else camera, len(rows), "camera")
        return [
            _Draft(text) if row is None else self._draft(statistics[row], text, camera)
            for row, text, camera in zip(rows, texts, cameras, strict=True)
        ]

    def _tokenize(self, drafts: list[_Draft], text_kwargs: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """The texts as the language model reads them, and their tokens."""
        prompts = [draft.prompt for draft in drafts]
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError("`prompt` or `text` contains a blank one, which leaves nothing to read; give it words.")
        if text_kwargs.get("truncation") not in (None, False, "do_not_truncate"):
            max_length = text_kwargs["max_length"]
            options = {"add_special_tokens": text_kwargs.get("add_special_tokens", True), "verbose": False}

            def fits(prompt: str) -> bool:
                return len(self.tokenizer(prompt, **options)["input_ids"]) <= max_length

            for index, draft in enumerate(drafts):
                if not fits(prompts[index]):
                    logger.warning_once(
                        f"A prompt has more than {max_length} tokens and is cut; shorten its text, or raise "
                        "`max_prompt_length` if the language model has the positions for it."
                    )
                    prompts[index] = draft.shortened(fits)
        encoding = self.tokenizer(prompts, **text_kwargs)
        return prompts, {name: ids for name, ids in encoding.items() if name not in self.unused_input_names}


def _check_arguments(images: Any, text: Any, prompt: Any, depth_maps: Any, camera: Any) -> None:
    if images is None and text is None and prompt is None:
        raise ValueError("`images`, `text` and `prompt` are all None; pass at least one of them.")
    if prompt is not None and (text is not None or camera is not None):
        other = "text" if text is not None else "camera"
        raise ValueError(f"`prompt` is complete and takes no `{other}`; pass one of the two.")
    if images is None and (depth_maps is not None or camera is not None):
        other = "depth_maps" if depth_maps is not None else "camera"
        raise ValueError(f"`{other}` belongs to photographs; pass `images` too.")


def _one_for_each(value: str | list[str] | None, num_rows: int, argument: str) -> list[str] | list[None]:
    """One text for all rows, or the one given for each."""
    if value is None or isinstance(value, str):
        return [value] * num_rows
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"`{argument}` is {value!r}; pass a string, or a list with one for each image.")
    if len(value) != num_rows:
        raise ValueError(
            f"`{argument}` has {len(value)} texts for {num_rows} images; pass one for all, or one for each."
        )
    return list(value)


def _image_rows(images: ImageInput, num_images: int) -> list[int | None]:
    """For each row of the batch, the index of its image; None for the empty lists among nested ones."""
    if not (isinstance(images, (list, tuple)) and all(isinstance(each, (list, tuple)) for each in images)):
        return list(range(num_images))
    rows, indices = [], count()
    for sample in images:
        rows.extend([next(indices) for _ in flatten_inputs(sample, "images", 3)] if sample else [None])
    return rows


def _times(folder: Path) -> dict[Path, int]:
    """When each file of a folder was written."""
    return {file: file.stat().st_mtime_ns for file in sorted(folder.glob("*")) if file.is_file()}


def _publish(
    files: Sequence[Path],
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: str | Sequence[str] | None = None,
) -> CommitInfo:
    """One commit with these files, to a repository that may be new. The card is the model's business."""
    api = HfApi(token=token)
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    if not create_pr:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision not in (None, "main") and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
    additions = [CommitOperationAdd(file.name, file) for file in files]
    card = _tagged_card(api, repo_id, revision, [tags] if isinstance(tags, str) else list(tags or ()))
    return api.create_commit(
        repo_id,
        [*additions, *([] if card is None else [CommitOperationAdd("README.md", str(card).encode())])],
        commit_message=commit_message or "Upload processor",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def _tagged_card(api: HfApi, repo_id: str, revision: str | None, tags: list[str]) -> ModelCard | None:
    """The card with tags that it lacks, one that has nothing but tags where there is none, or `None` for no change."""
    if not tags:
        return None
    try:
        card = ModelCard.load(api.hf_hub_download(repo_id, "README.md", revision=revision))
    except (EntryNotFoundError, HfHubHTTPError) as error:
        # A Hub of one's own may say by the status alone that there is no card; without a network nobody knows.
        answer = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        if not isinstance(answer, HfHubHTTPError) or answer.response.status_code != 404:
            raise
        card = ModelCard(f"---\n{ModelCardData(tags=[])}\n---\n")
    known = card.data.tags or []
    card.data.tags = list(dict.fromkeys([*known, *tags]))
    return None if card.data.tags == known else card


__all__ = ["LLMMDEProcessor", "LLMMDEProcessorKwargs"]
