"""Adapters that come from outside: found without unpickling, and compared with the model before they touch it."""

import copy
import dataclasses
import hashlib
import importlib
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import cached_file, extract_commit_hash, find_adapter_config_file, is_peft_available, logging

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
FINGERPRINT_KEY = "base_fingerprint"  # in the metadata of an adapter's safetensors file
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")

_PEFT_PREFIX = "base_model.model."
_CHECKED_NAME = "being_checked"  # of an adapter in an empty model, beside those that are on it
_FINGERPRINTED = ("vision_tower", "language_model", "reprogramming", "depth_head")
_HARMLESS = (True, False, "gaussian")  # ways to begin a LoRA that leave the base as it is
_SAMPLED_SIGNS = 2**16  # of each weight: an update of low rank turns some of them, and a large model stays quick


try:
    _parse = re._parser.parse
except AttributeError:  # Python 3.10
    from sre_parse import parse as _parse


def _peft():
    # No import statement, which Transformers would read as: nobody loads this model without PEFT.
    return importlib.import_module("peft")


def _refuse_without_peft(name: str) -> None:
    if not is_peft_available():
        raise ImportError(f"{name!r} is an adapter, which needs PEFT: pip install peft.")


@dataclasses.dataclass(frozen=True)
class AdapterFiles:
    """An adapter on disk: its folder, its configuration, and of its weights names, shapes and metadata."""

    name: str
    folder: Path
    config: dict
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]

    @classmethod
    def find(cls, name: str | os.PathLike, **options) -> "AdapterFiles":
        """
        Looks an adapter up in a folder or on the Hub, and reads everything but its weights.

        Args:
            name (`str` or `PathLike`): Adapter folder or Hub id.
            options: Of `HUB_OPTIONS`, for instance `revision`.

        Raises:
            ImportError: If PEFT is not installed.
            OSError: If there is no adapter.
            ValueError: If it has no weights in safetensors, or one of its two files is damaged.
        """
        name, options = str(name), hub_options(options)
        _refuse_without_peft(name)
        config = cached_file(name, ADAPTER_CONFIG_NAME, **options)
        commit = extract_commit_hash(config, None)  # both files of one commit, also when a new one is being made
        try:
            weights = cached_file(name, ADAPTER_WEIGHTS_NAME, **options | ({"revision": commit} if commit else {}))
        except OSError as error:
            raise ValueError(
                f"The adapter {name!r} has no {ADAPTER_WEIGHTS_NAME} that can be read; save it with "
                "`save_pretrained`, which writes that file. Pickled weights are not read. "
                f"({' '.join(str(error).split())})"
            ) from error
        try:
            with safe_open(weights, "pt") as file:  # compares the length of the file with its header, too
                metadata, keys = file.metadata() or {}, file.keys()
                shapes = {key.removeprefix(_PEFT_PREFIX): tuple(file.get_slice(key).get_shape()) for key in keys}
        except Exception as error:  # safetensors has one of its own, which is derived from nothing narrower
            raise ValueError(
                f"The adapter {name!r} has an {ADAPTER_WEIGHTS_NAME} that is cut short or no safetensors file "
                f"({error}); download it again (`git lfs pull` where it was cloned, `force_download=True` from the "
                "Hub), or save the adapter again with `save_pretrained`. Pickled weights are not read."
            ) from error
        return cls(name, Path(weights).parent, _read_config(name, config), shapes, metadata)

    def check_fits(self, model: nn.Module) -> None:
        """
        Compares the adapter with a model that it is about to be put on, weight by weight; neither is changed.

        Args:
            model ([`LLMMDEForDepthEstimation`]): The model, possibly with other adapters already.

        Raises:
            ValueError: If a weight of either is not in the other or has another shape there, or if the adapter notes
                that its base had other weights.
        """
        way_out = f"Load it on the base it was made for{self._base()}, or train another for this model."
        expected, reason = self._expected_shapes(model)
        names = expected.keys() | self.shapes.keys()
        differing = [name for name in names if expected.get(name) != self.shapes.get(name)]
        if differing:
            # One that both have says more than one that only one has.
            name = min(differing, key=lambda name: (name not in expected or name not in self.shapes, name))
            here, there = (shapes.get(name, "absent") for shapes in (self.shapes, expected))
            raise ValueError(
                f"The adapter {self.name!r} does not fit this model: {name!r} is {here} in the adapter and {there} in "
                f"the model; of its {len(self.shapes)} weights {len(differing)} differ. {way_out}"
            ) from reason
        noted = self.metadata.get(FINGERPRINT_KEY) if self._leaves_its_base_alone() else None
        found = None if noted is None else base_fingerprint(model.state_dict(), self.shapes)
        if found is not None and found != noted:
            raise ValueError(
                f"The adapter {self.name!r} was trained on other weights than those of this model "
                f"({model.name_or_path!r}), and would predict nonsense. {way_out}"
            )

    def _base(self) -> str:
        base, revision = self.config.get("base_model_name_or_path"), self.config.get("revision")
        return (f", {base!r}" if base else "") + (f" at revision {revision!r}" if base and revision else "")

    def _leaves_its_base_alone(self) -> bool:
        """Whether the base had the same weights before the adapter was made; PiSSA, for one, moves some into it."""
        return self.config.get("peft_type") == "LORA" and self.config.get("init_lora_weights", True) in _HARMLESS

    def _expected_shapes(self, model: nn.Module) -> tuple[dict[str, tuple[int, ...]], Exception | None]:
        """Names and shapes that the file must have, from an empty model of the same configuration; PEFT's doubts."""
        try:
            with torch.device("meta"):
                skeleton = type(model)(copy.deepcopy(model.config))
        except TypeError:  # a class of the caller's, which is made from more than a configuration
            skeleton = _empty_copy(model)
        try:
            config = _peft().PeftConfig.from_pretrained(str(self.folder))
            _refuse_slow_patterns(config)
            config.init_lora_weights = True  # some of the other ways compute with the base's weights
            with torch.device("meta"):
                _peft().inject_adapter_in_model(config, skeleton, _CHECKED_NAME, low_cpu_mem_usage=True)
        except ValueError as error:  # there is no layer to adapt
            return {name: shape for name, shape in self.shapes.items() if ".lora_" not in name}, error
        except Exception as error:  # fields of other types and broken patterns raise whatever they run into
            raise ValueError(
                f"The adapter {self.name!r} has an {ADAPTER_CONFIG_NAME} that describes no adapter "
                f"({type(error).__name__}: {' '.join(str(error).split())}); save it again with `save_pretrained`."
            ) from error
        state = _peft().get_peft_model_state_dict(skeleton, adapter_name=_CHECKED_NAME, save_embedding_layers=False)
        return {name.removeprefix(_PEFT_PREFIX): tuple(weight.shape) for name, weight in state.items()}, None


def _read_config(name: str, file: str) -> dict:
    try:
        config = json.loads(Path(file).read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds a {type(config).__name__}, not an object")
        kind = config.get("peft_type")
        if kind not in list(_peft().PeftType):
            raise ValueError(f"`peft_type` is {kind!r}, which PEFT {_peft().__version__} does not know")
    except ValueError as error:  # those of JSON and of UTF-8 are ValueErrors, too
        raise ValueError(
            f"The adapter {name!r} has an {ADAPTER_CONFIG_NAME} that cannot be used ({error}); download it again, "
            "save the adapter again with `save_pretrained`, or update PEFT if a newer one wrote it."
        ) from error
    return config


def _refuse_slow_patterns(config) -> None:
    """Repetitions of what repeats or branches, on which a regular expression may think for years.

    Raises:
        TypeError: If one of the configuration's patterns has them.
    """
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        pattern = getattr(config, name, None)
        if isinstance(pattern, str) and _repeats_what_varies(_parse(pattern)):
            raise TypeError(f"`{name}` is {pattern[:80]!r}, which repeats what repeats or branches")


def _repeats_what_varies(parsed, is_repeated: bool = False) -> bool:
    for operation, arguments in parsed:
        kind = str(operation)
        varies = kind in ("MAX_REPEAT", "MIN_REPEAT", "BRANCH")
        if varies and is_repeated:
            return True
        inner = is_repeated or ("REPEAT" in kind and arguments[1] > 1)
        for part in arguments if isinstance(arguments, (tuple, list)) else ():
            for each in part if isinstance(part, list) else [part]:
                if hasattr(each, "data") and _repeats_what_varies(each, inner):
                    return True
    return False


def _empty_copy(model: nn.Module) -> nn.Module:
    """A copy on the meta device, for which no weight is copied."""
    weights = {id(weight): nn.Parameter(weight.detach().to("meta"), False) for weight in model.parameters()}
    return copy.deepcopy(model, weights | {id(buffer): buffer.to("meta") for buffer in model.buffers()})


def base_fingerprint(state_dict: Mapping[str, Tensor], adapter_weights: Collection[str]) -> str | None:
    """
    A hash of what an adapter leaves to its base, to tell later whether it is put on the same.

    Signs are hashed, since they are the same in every floating type. The names of weights and their order are not, as
    they differ between versions of Transformers. Left out is what may change while the base stays the same:
    prototypes, which `convert_prototypes` writes in another form, word embeddings, to which `resize_token_embeddings`
    adds rows, and what a subclass has beside the parts of the model.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Weights of the base, of a `PeftModel` around it, or of a base with
            adapters in it.
        adapter_weights (`Collection[str]`): Names of the adapter's weights, as in its file.

    Returns:
        `str`: SHA-256 in hexadecimal, or `None` if weights are quantised, not here (on the meta device) or none.
    """
    brought = {name.removeprefix(_PEFT_PREFIX) for name in adapter_weights}
    wrapped = {name.split(".base_layer.")[0] for name in state_dict if ".base_layer." in name}
    digests = []
    for name, weight in state_dict.items():
        is_of_adapter = ".base_layer." not in name and not wrapped.isdisjoint(_modules_around(name))
        if is_of_adapter or ".modules_to_save." in name:
            continue
        name = name.removeprefix(_PEFT_PREFIX).replace(".base_layer.", ".").replace(".original_module.", ".")
        part, *path = name.split(".")
        # Of a language model its numbered layers; vectors are few against the matrices around them.
        is_embedding = part == "language_model" and not any(step.isdigit() for step in path)
        if name in brought or part not in _FINGERPRINTED or is_embedding or weight.ndim < 2:
            continue
        if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64) or weight.is_meta:
            return None
        signs = torch.signbit(weight.detach().flatten()[:: max(1, weight.numel() // _SAMPLED_SIGNS)])
        digests.append(hashlib.sha256(signs.cpu().numpy().tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest() if digests else None


def _modules_around(name: str) -> list[str]:
    """The modules that a weight is in: `["a", "a.b"]` for `"a.b.weight"`."""
    return [name[:place] for place, letter in enumerate(name) if letter == "."]


def at_pinned_base(config_class: type, name: str | os.PathLike | None, options: dict) -> tuple[str | None, dict]:
    """
    What to load where `from_pretrained` is given an adapter: its base, at the revision that the adapter names.

    Transformers puts the adapter on the main branch of its base, or on the adapter's own revision, whatever
    `adapter_config.json` says.

    Args:
        config_class (`type`): [`LLMMDEConfig`], as the model knows it.
        name (`str` or `PathLike`): First argument of `from_pretrained`: an adapter or a model. An Auto class that was
            given an adapter passes its base, and the adapter in `adapter_kwargs`.
        options (`dict`): Its keyword arguments.

    Returns:
        `tuple[str, dict]`: The same two, for [`~PreTrainedModel.from_pretrained`] of Transformers.

    Raises:
        ImportError: If it is an adapter and PEFT is not installed.
        ValueError: If the adapter's configuration is damaged or names no base.
    """
    adapter_options = dict(options.get("adapter_kwargs") or {})
    adapter = adapter_options.get("_adapter_model_path")
    is_named_by_auto_class = adapter is not None
    if not is_named_by_auto_class:
        adapter, adapter_options = name, hub_options(options) | adapter_options
    inside = None if adapter is None else os.path.join(adapter, adapter_options.get("subfolder") or ".")
    if adapter_options.get("subfolder") and os.path.isdir(inside):
        adapter = inside  # Transformers 5.17 looks for an adapter in no subfolder of a folder
        del adapter_options["subfolder"]
    if adapter is None or os.path.isfile(os.path.join(adapter, "config.json")):
        return name, options
    if not is_peft_available() and not os.path.isdir(adapter):
        return name, options  # a question to the Hub for an answer of no use
    file = find_adapter_config_file(str(adapter), **hub_options(adapter_options))
    if file is None:
        return name, options
    _refuse_without_peft(str(adapter))
    named = _read_config(str(adapter), file)
    base, revision = named.get("base_model_name_or_path"), named.get("revision")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"The adapter {str(adapter)!r} has an {ADAPTER_CONFIG_NAME} whose `base_model_name_or_path` is {base!r}; "
            "write the folder or the Hub id of its base there, or load the base and call `load_adapter`."
        )
    adapter_options |= {"_adapter_model_path": str(adapter), "revision": adapter_options.get("revision")}
    options = options | {"adapter_kwargs": adapter_options}
    if not is_named_by_auto_class:
        # A folder inside the adapter's repository says nothing of that of its base.
        return base, {key: value for key, value in options.items() if key != "subfolder"} | {"revision": revision}
    config = options.get("config")
    if revision is None or config is None:
        return name, options
    # The class has read the configuration already, of the wrong revision; what the caller changed in it is kept.
    unchanged, pinned = (
        config_class.from_pretrained(base, **hub_options(options | {"revision": commit}))
        for commit in (options.get("revision"), revision)
    )
    unchanged = unchanged.to_dict()
    for field, value in config.to_dict().items():
        if value != unchanged.get(field):
            setattr(pinned, field, getattr(config, field))
    if config._attn_implementation is not None:  # which `to_dict` leaves out
        options.setdefault("attn_implementation", config._attn_implementation)
    options = {key: value for key, value in options.items() if key != "_commit_hash"}  # Transformers 5.17 goes by it
    return name, options | {"config": pinned, "revision": revision}


def hub_options(options: Mapping) -> dict:
    """Those of some keyword arguments that say where on the Hub a file lies."""
    return {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}


class AdapterMixin:
    """What [`PreTrainedModel`] does with adapters, where it falls short of them or of safetensors alone."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers, but reads safetensors alone, and an adapter's base at the revision that it names.

        Raises:
            OSError: If the weights are nowhere, damaged, or pickled.
            ValueError: If `use_safetensors=False`, or an adapter does not fit its base.
        """
        _refuse_pickles(kwargs)
        name, kwargs = at_pinned_base(cls.config_class, pretrained_model_name_or_path, kwargs)
        try:
            loaded = super().from_pretrained(name, *args, **kwargs | {"use_safetensors": True})
        except SafetensorError as error:
            raise OSError(
                f"{str(name)!r} has weights that are cut short or no safetensors file ({error}); download them again "
                "(`git lfs pull` where they were cloned, `force_download=True` from the Hub), or save the model again."
            ) from error
        except OSError as error:
            if "file named" not in str(error):  # something else than that there is none
                raise
            # Transformers goes on to advise `use_safetensors=False`.
            raise OSError(
                f"{str(name)!r} has no weights in safetensors that can be read; save the model with "
                "`save_pretrained`, which writes them. Pickled weights are not read."
            ) from error
        adapter_options = kwargs.get("adapter_kwargs") or {}
        if isinstance(loaded, cls) and "_adapter_model_path" in adapter_options:
            # Transformers gives a pipeline the processor of the base; ours looks here for the adapter's.
            loaded.adapter_source = adapter_options["_adapter_model_path"], hub_options(adapter_options)
        return loaded

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs):
        """As in Transformers, but compares an adapter with the model before it changes anything.

        Args:
            peft_model_id (`str`): Adapter folder or Hub id. Its revision goes into `adapter_kwargs`.
            adapter_name (`str`, *optional*, defaults to `"default"`): What to call it; several can live on one model.
            kwargs: As in Transformers.

        Raises:
            OSError: If there is no adapter.
            ValueError: If it does not fit the model, was made for other weights than the model's, or is damaged or
                pickled. The model is then used as before.
        """
        _refuse_pickles(kwargs)
        if peft_model_id is None:
            return super().load_adapter(peft_model_id, adapter_name, **kwargs)
        load_config, adapter_options = kwargs.pop("load_config", None), kwargs.pop("adapter_kwargs", None) or {}
        options = {} if load_config is None else hub_options(load_config.download_kwargs or {})
        options |= adapter_options
        if kwargs.pop("local_files_only", False):
            options["local_files_only"] = True
        adapter = AdapterFiles.find(peft_model_id, **options)
        self.unmerge_adapter()
        adapter.check_fits(self)

        if load_config is not None:  # that of the base
            kwargs["load_config"] = dataclasses.replace(load_config, download_kwargs={}, use_safetensors=True)
        adapter_name = adapter_name or "default"
        listed, is_disabled = list(getattr(self, "peft_config", {})), self._is_disabled()
        active = self.active_adapters() if listed else []
        trainable = [(parameter, parameter.requires_grad) for parameter in self.parameters()]
        try:
            with _without_false_alarms():
                loading_info = super().load_adapter(str(adapter.folder), adapter_name, **kwargs)
            if any(f".{adapter_name}." in f"{name}." for name in loading_info.missing_keys):
                self._load_with_peft(adapter, adapter_name)
            # Every weight has been found in the file; Transformers misses those of other adapters in it.
            loading_info.missing_keys, loading_info.unexpected_keys = set(), set()
            # A second adapter is put to work in the layers it updates only, not for the modules it saved whole.
            self.set_adapter(adapter_name)
        except Exception:
            if adapter_name not in listed and adapter_name in getattr(self, "peft_config", {}):
                self._hf_peft_config_loaded = True  # it may have failed before that was noted
                self.delete_adapter(adapter_name)
                if active:
                    self.set_adapter(active)
                if is_disabled:
                    self.disable_adapters()
                for parameter, requires_grad in trainable:
                    parameter.requires_grad_(requires_grad)
            raise
        if not kwargs.get("is_trainable", False):
            for name, parameter in self.named_parameters():
                if f".{adapter_name}." in f"{name}.":
                    parameter.requires_grad_(False)
        return loading_info

    def _load_with_peft(self, adapter: AdapterFiles, adapter_name: str) -> None:
        """Loads what Transformers 5.23 does not find under PEFT's names, such as the magnitudes of DoRA."""
        weights = _peft().load_peft_weights(str(adapter.folder), device="cpu")
        weights = {name.removeprefix(_PEFT_PREFIX): weight for name, weight in weights.items()}
        left_over = _peft().set_peft_model_state_dict(self, weights, adapter_name).unexpected_keys
        if left_over:
            raise ValueError(
                f"The adapter {adapter.name!r} has {len(left_over)} weights that neither Transformers nor PEFT puts "
                f"in their places, the first {left_over[0]!r}; update PEFT, or use `load_model_and_processor`."
            )

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """As in Transformers, but also where only some adapters saved whole modules, and after `disable_adapters`.

        Args:
            adapter_name (`str` or `list[str]`): The adapter to put to work, or several at once. A module that none of
                them saved whole is the base's own again.

        Raises:
            ValueError: If there is no such adapter, or several of them saved the same module whole.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        listed = list(getattr(self, "peft_config", {}))
        if not names or not set(names) <= set(listed):
            raise ValueError(f"`adapter_name` is {adapter_name!r}; choose of those that are loaded: {listed}.")
        self.unmerge_adapter()
        wrappers = [module for module in self.modules() if isinstance(module, _peft().utils.ModulesToSaveWrapper)]
        chosen = [[name for name in names if name in wrapper.modules_to_save] for wrapper in wrappers]
        for several in chosen:
            if len(several) > 1:
                raise ValueError(
                    f"`adapter_name` is {adapter_name!r}, but {several} replace the same module; choose one of them."
                )
        for wrapper, name in zip(wrappers, chosen, strict=True):
            wrapper.set_adapter(name)  # of none, the wrapper uses the original module
            wrapper.enable_adapters(True)
        for layer in self._adapted_layers():
            layer.set_adapter(names)
            layer.enable_adapters(True)

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """As in Transformers, but where the active adapter goes, another one takes its place in all layers, or none.

        Args:
            adapter_names (`str` or `list[str]`): The adapters to delete.

        Raises:
            ValueError: If there is no such adapter.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        listed = list(getattr(self, "peft_config", {}))
        remaining = [name for name in listed if name not in names]
        self.unmerge_adapter()
        if remaining and set(names) <= set(listed) and not set(names).isdisjoint(self.active_adapters()):
            is_disabled = self._is_disabled()
            self.set_adapter([name for name in self.active_adapters() if name in remaining] or remaining[:1])
            if is_disabled:
                self.disable_adapters()
        super().delete_adapter(names)

    def enable_adapters(self) -> None:
        """Undoes `disable_adapters`, also for the modules an adapter saved whole, which Transformers 5.23 forgets."""
        super().enable_adapters()
        for module in self.modules():
            if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
                module.enable_adapters(enabled=True)

    def disable_adapters(self) -> None:
        """As in Transformers; a merged adapter is taken out of the weights first."""
        self.unmerge_adapter()
        super().disable_adapters()

    def merge_adapter(self) -> None:
        """
        Adds the low-rank updates of the active adapters to the weights they belong to, so that a prediction costs what
        it costs without them. `unmerge_adapter`, or choosing, loading, disabling or deleting an adapter, puts the
        weights back, of which a copy is kept meanwhile: taking the updates out again would leave what was rounded.
        Meant for prediction: merged adapters are not trained.

        Raises:
            ValueError: If no adapter is loaded, or adapters are disabled.
        """
        if not getattr(self, "peft_config", {}) or self._is_disabled():
            raise ValueError("`merge_adapter` finds no adapter at work; `load_adapter` or `enable_adapters` first.")
        for layer in self._adapted_layers():
            if not layer.merged:
                weights = layer.get_base_layer().named_parameters(recurse=False)
                copies = {name: weight.detach().clone() for name, weight in weights if weight.is_floating_point()}
                layer.merge(adapter_names=self.active_adapters())
                if layer.merged:
                    layer.weights_before_merging = copies

    def unmerge_adapter(self) -> None:
        """Puts the weights back to what they were before `merge_adapter`; without anything merged it does nothing."""
        if getattr(self, "peft_config", {}):
            for layer in self._adapted_layers():
                if layer.merged:
                    layer.unmerge()
                    _put_back(layer.get_base_layer(), layer.__dict__.pop("weights_before_merging", {}))

    def _adapted_layers(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, _peft().tuners.tuners_utils.BaseTunerLayer)]

    def _is_disabled(self) -> bool:
        return any(layer.disable_adapters for layer in self._adapted_layers())


@torch.no_grad()
def _put_back(layer: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        getattr(layer, name).copy_(weight)


def _refuse_pickles(options: Mapping) -> None:
    if options.get("use_safetensors") is False:
        raise ValueError("`use_safetensors` is False, but pickled weights are not read; save them as safetensors.")


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """Keeps back what Transformers and PEFT say of a second adapter: the weights of the first are reported missing."""
    reporter = logging.get_logger("transformers.integrations.peft")

    def is_no_report(record) -> bool:
        return "LOAD REPORT" not in str(record.msg)

    reporter.addFilter(is_no_report)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            yield
    finally:
        reporter.removeFilter(is_no_report)


__all__ = [
    "ADAPTER_WEIGHTS_NAME",
    "FINGERPRINT_KEY",
    "AdapterFiles",
    "AdapterMixin",
    "at_pinned_base",
    "base_fingerprint",
    "hub_options",
]
