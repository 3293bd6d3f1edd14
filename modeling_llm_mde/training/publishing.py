"""Pushes of a training run: each one commit of a whole folder, and nothing to be seen before the first of them."""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, HfApi, ModelCard, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging

from llm_mde.finite_weights_llm_mde import refuse_undefined
from llm_mde.hub.cards import CardFacts, adapter_card, model_card
from llm_mde.hub.folders import commit_in_cache, without_shards
from llm_mde.hub.publishable import is_hub_id
from llm_mde.hub.publishing import commit_folder
from llm_mde.public_names import without_place

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

logger = logging.get_logger(__name__)

# Of what the Trainer saves. The processor is written anew, as its tokenizer decides which files it has.
_PUBLISHED = ("*config.json", "*.safetensors", "model.safetensors.index.json", "*.py")
_OF_DEEPSPEED = "zero_to_fp32.py"


class PublishingTrainer(Trainer):
    """
    The stock Trainer, but whatever it pushes to the Hub loads, at every moment that it can be seen.

    A push is one commit of weights (safetensors), configuration, code, processor and card, of a whole model or of an
    adapter, whose configuration then names the commit of its base. Nothing else of `output_dir` is uploaded, and the
    token gets into no file. The first push makes the repository. Checkpoints are pushed in the background, one after
    the other; while one is on its way the next is passed over, or waits with `hub_always_push`. A push that fails is
    told in one line and does not end the training: the next, and in the end [`push_to_hub`], brings all again.

    `hub_strategy` is `"every_save"` or `"end"`. The others would upload the state to resume from, which `torch.save`
    pickles: who loads a pickle runs the code in it, so none is published.

    Raises:
        ValueError: If `push_to_hub` is true and `hub_strategy` uploads pickles, there is no processor
            (`processing_class`), the base of the adapter is not on the Hub, or the Hub does not know the user.
    """

    push_in_progress: Future | None = None  # of the last push; they are done in order
    _worker: ThreadPoolExecutor | None = None

    def init_hf_repo(self, token: str | None = None) -> None:
        """Refuses what cannot be published and asks the Hub who the user is; the first push makes the repository."""
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"`hub_strategy` is {self.args.hub_strategy.value!r}, which uploads the optimiser's state, a pickle, "
                "and pickles are not published; choose 'every_save', and resume from the checkpoint on this machine."
            )
        if not hasattr(self.processing_class, "image_processor"):
            found = "None" if self.processing_class is None else f"a {type(self.processing_class).__name__}"
            raise ValueError(
                f"`processing_class` is {found}; pass the model's `LLMMDEProcessor`, without which nobody can use "
                "what is pushed."
            )
        adapter = _adapter_of(self._whole_model())
        if adapter is not None:
            adapter.base_model_name_or_path, adapter.revision = _base_on_hub(adapter, self._whole_model())
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        token = token if token is not None else self.args.hub_token
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ValueError(f"`hub_model_id` is {name!r}: {_one_line(error)}") from error
        try:
            user = HfApi(token=token).whoami()["name"]
        except Exception as error:  # of the HTTP library, whose errors have no common base with the Hub's
            reason, secret = _one_line(error), (token or get_token() or "").strip()
            if secret:  # a header that cannot be sent is quoted, and the token with it
                reason = reason.replace(secret, "(token)")
            raise ValueError(
                "`push_to_hub` is true but the Hub does not say who pushes; log in with `hf auth login`, or pass a "
                f"`hub_token`: {reason}"
            ) from None
        self.hub_model_id = name if "/" in name else f"{user}/{name}"

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        card: CardFacts | None = None,
    ) -> CommitInfo | Future | None:
        """
        Pushes the model as it is now, in one commit; to be called by all processes, of which the main one pushes.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait until it is on the Hub.
            token, revision, private (*optional*): As `hub_token`, `hub_revision` and `hub_private_repo`, which are
                the defaults.
            card ([`CardFacts`], *optional*): What the card says of data, errors and licence, which the Trainer does
                not know.

        Returns:
            `CommitInfo`, or with `blocking=False` the `Future` of one; `None` in all but the main process.

        Raises:
            ValueError: If the Hub does not take it; with `blocking=False`, when the future is asked.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:  # where `push_to_hub` is false in the arguments
            self.init_hf_repo(token)
        saved = Path(self.args.output_dir, ".saved-to-push")
        self._finish_current_push()
        if self.args.should_save:
            shutil.rmtree(saved, ignore_errors=True)  # of a push that was cut off
        self.save_model(str(saved), _internal_call=True)  # sharded weights are gathered by all processes
        try:
            if not self.is_world_process_zero():
                return None
            push = self._start_push(self._stage(saved, card), commit_message, token, revision, private)
        finally:
            if self.args.should_save:
                shutil.rmtree(saved, ignore_errors=True)
        return push.result() if blocking else push

    def create_model_card(self, card: CardFacts | None = None) -> None:
        """Writes the card that a push would bring into `output_dir`."""
        if self.is_world_process_zero():
            self._card(card).save(Path(self.args.output_dir, "README.md"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self._is_pushing() and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        when = f"epoch {int(self.state.epoch)}"
        if self.args.save_strategy == SaveStrategy.STEPS:
            when = f"step {self.state.global_step}"
        try:
            staged = self._stage(Path(checkpoint_folder))
        except Exception as error:  # whatever it is, it is less than the training
            _tell_of_failure(error)
            return
        self._start_push(staged, f"Training in progress, {when}", tell_of_failure=True)

    def _start_push(
        self,
        staged: Path,
        commit_message: str | None,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tell_of_failure: bool = False,
    ) -> Future:
        """Commits a folder after those that are waiting, and removes it."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        repo_id = self.hub_model_id
        options = {
            "private": bool(private if private is not None else self.args.hub_private_repo),
            "token": token if token is not None else self.args.hub_token,
            "commit_message": commit_message,
            "revision": revision if revision is not None else self.args.hub_revision,
            "update": True,
        }

        def push() -> CommitInfo:
            try:
                return commit_folder(staged, repo_id, **options)
            except Exception as error:
                if tell_of_failure:
                    _tell_of_failure(error)
                raise
            finally:
                shutil.rmtree(staged, ignore_errors=True)

        self.push_in_progress = self._worker.submit(push)
        return self.push_in_progress

    def _is_pushing(self) -> bool:
        return self.push_in_progress is not None and not self.push_in_progress.done()

    def _finish_current_push(self) -> None:
        if self._is_pushing():
            logger.info("Waiting for the last push to the Hub to end.")
            self.push_in_progress.exception()  # told already, or for the caller of `push_to_hub` to ask

    def _stage(self, saved: Path, card: CardFacts | None = None) -> Path:
        """A folder to publish out of one that the Trainer has saved, of links where the file system has them."""
        staged = Path(self.args.output_dir, f".push-{saved.name}")
        if staged.exists():  # of an interrupted run, or still being pushed
            self._finish_current_push()
            shutil.rmtree(staged, ignore_errors=True)
        model = self._whole_model()
        if _adapter_of(model) is not None and (saved / model.active_adapters[0]).is_dir():
            saved = saved / model.active_adapters[0]  # where PEFT puts all but the one called "default"
        if not any(saved.glob("*.safetensors")):
            raise ValueError(
                "The weights were not saved whole; with FSDP pass `fsdp_state_dict_type: FULL_STATE_DICT`, with "
                "DeepSpeed `stage3_gather_16bit_weights_on_model_save: true`."
            )
        staged.mkdir(parents=True)
        try:
            self.processing_class.save_pretrained(staged)
            for path in saved.iterdir():
                if _is_published(path) and not (staged / path.name).exists():
                    _link(path, staged / path.name)
            self._card(card).save(staged / "README.md")
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged

    def _card(self, card: CardFacts | None) -> ModelCard:
        """The card of the model as it is now."""
        model, facts = self._whole_model(), card or CardFacts()
        revision = facts.revision or self.args.hub_revision
        facts = replace(facts, repo_id=self.hub_model_id or facts.repo_id, revision=revision)
        write = model_card if _adapter_of(model) is None else adapter_card
        return write(model, self.processing_class, facts)

    def _whole_model(self) -> "nn.Module":
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in the stock Trainer, with our code beside sharded weights, and no token in training_args.bin; weights
        that are not finite are refused."""
        if output_dir is not None and Path(output_dir).exists():
            self._finish_current_push()  # of links to files that are about to be written over
        if not isinstance(self._whole_model(), PreTrainedModel):  # which looks for itself
            refuse_undefined(dict(self._whole_model().named_parameters()) if state_dict is None else state_dict)
        token, self.args.hub_token = self.args.hub_token, None
        try:
            with without_shards(self._whole_model()):
                super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token


def _adapter_of(model: "nn.Module") -> "PeftConfig | None":
    """Configuration of the adapter that is trained, if one is."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    if not hasattr(model, "get_base_model"):
        raise ValueError(
            "`model` has an adapter inside (`add_adapter`, `load_adapter`); to push it, train a `PeftModel`, as "
            "`prepare_for_training` returns."
        )
    return configs[model.active_adapters[0]]


def _base_on_hub(config: "PeftConfig", model: "nn.Module") -> tuple[str, str]:
    """Hub id and revision of an adapter's base: the commit, where this machine has loaded it from the Hub."""
    base = config.base_model_name_or_path or model.name_or_path
    if not base or not is_hub_id(base):
        raise ValueError(
            f"`base_model_name_or_path` of the adapter is {base and without_place(base)!r}, which only this machine "
            "has, and nobody can load the adapter without it; publish the base first (`llm-mde publish model`), load "
            "it by its Hub id and revision, and train the adapter on that."
        )
    revision = commit_in_cache(base, config.revision) or config.revision
    if not revision:
        raise ValueError(
            f"`revision` of the adapter is {revision!r}, and an adapter fits one state of its base {base!r}; pass the "
            "commit of the base to `LoraConfig(revision=...)`."
        )
    return base, revision


def _is_published(path: Path) -> bool:
    return path.name != _OF_DEEPSPEED and any(path.match(pattern) for pattern in _PUBLISHED)


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # across file systems, or where there are no links
        shutil.copy2(source, destination)


def _tell_of_failure(error: BaseException) -> None:
    logger.warning(
        f"A push failed, and the training goes on; the next push brings all that this one did not: {_one_line(error)}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


__all__ = ["PublishingTrainer"]
