"""Models of transformers, built from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models.initial import require_choice
from sparsewood.models.libraries import built, library, renamed, unknown_parameter

__all__ = ["from_transformers"]

NAMES = {"classes": "num_labels", "channels": "num_channels"}
MAPPINGS = {
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "speech-seq2seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "ctc": "MODEL_FOR_CTC_MAPPING",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING",
    "video-classification": "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING",
    "semantic-segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING",
    "zero-shot-image-classification": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING",
    "image-text-to-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "none": "MODEL_MAPPING",
}
ANY = (
    *("seq2seq-lm", "speech-seq2seq", "masked-lm", "causal-lm", "zero-shot-image-classification"),
    *("image-classification", "text-classification", "ctc", "audio-classification", "video-classification"),
    *("semantic-segmentation", "none", "image-text-to-text"),
)
"""What `task="any"` tries: first the heads that use all of the network, not its decoder or its vision part alone."""


def from_transformers(name: str, pretrained: bool | str, parameters: Mapping[str, Any]) -> nn.Module:
    """The model of the type or configuration class `name`, with a head for `task` (default "image-classification").

    The task "none" has no head; "any" is the first task for which there is a head. `parameters` besides `task` belong
    to the configuration. `model(x)` gives logits; with keyword arguments the model
    gives what transformers documents. Raises `UnknownName` for another name or parameter, `SparsewoodError` if
    transformers is missing or refuses, or the type has no such head.
    """
    transformers = library("transformers", "hf")
    settings = renamed({key: value for key, value in parameters.items() if key != "task"}, NAMES)
    task = parameters.get("task", "image-classification")
    require_choice(f"the model 'transformers:{name}'", "task", task, (*MAPPINGS, "any"))
    if pretrained is True:
        raise SparsewoodError(
            f"For 'transformers:{name}', 'pretrained' is the name of a checkpoint, as "
            "pretrained='google/vit-base-patch16-224'. Got True."
        )
    config_class = _config_class(transformers, name)
    model_class = _model_class(name, config_class, task)
    accepted = _config_parameters(config_class)
    for key in settings:
        if key not in accepted:
            ours = {other: our for our, other in NAMES.items()}
            raise unknown_parameter(f"model 'transformers:{name}'", key, [ours.get(a, a) for a in [*accepted, "task"]])

    def build() -> nn.Module:
        if pretrained:
            # A classifier for other classes does not have the checkpoint's shape, and is drawn anew.
            return model_class.from_pretrained(pretrained, ignore_mismatched_sizes="num_labels" in settings, **settings)
        return model_class(config_class(**settings))

    model = built(f"transformers:{name}", build, list, pretrained)
    model.register_forward_hook(_logits, with_kwargs=True)
    return model


def _logits(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> Tensor | None:
    """The logits alone, for what calls the model as any other; None leaves the output as it is.

    A hook, and no module around the model, so that names of parameters are those of a checkpoint.
    """
    del module
    return getattr(output, "logits", None) if arguments and not keywords else None


def _config_class(transformers: ModuleType, name: str) -> Any:
    types = transformers.CONFIG_MAPPING
    if name in types:
        return types[name]
    found = getattr(transformers, name, None) if name.endswith("Config") else None
    if not (isinstance(found, type) and issubclass(found, transformers.PretrainedConfig)):
        known = [*types.keys(), *(public for public in dir(transformers) if public.endswith("Config"))]
        raise UnknownName.among("model type or configuration of transformers", name, known)
    return found


def _model_class(name: str, config_class: Any, task: str) -> Any:
    from transformers.models.auto import modeling_auto

    tasks = [other for other, mapping in MAPPINGS.items() if config_class in getattr(modeling_auto, mapping, ())]
    if task == "any":
        task = next((one for one in ANY if one in tasks), task)
    if task not in tasks:
        what = f"transformers has no model 'transformers:{name}' for the task {task!r}. "
        if not tasks:
            raise SparsewoodError(f"{what}It has none for any of {', '.join(MAPPINGS)}. Take another type.")
        raise SparsewoodError(
            f"{what}It has some for: {', '.join(tasks)}. Add --set task={tasks[0]} (task: in recipes)."
        )
    found = getattr(modeling_auto, MAPPINGS[task])[config_class]
    return found[0] if isinstance(found, tuple) else found  # some types have several; the first is the usual one


def _config_parameters(config_class: Any) -> list[str]:
    """All settings of a configuration. Its constructor keeps whatever it gets, so a misspelt name would do nothing."""
    told = {"model_type", "transformers_version", "architectures"}
    return ["num_labels", *(key for key in config_class().to_dict() if not key.startswith("_") and key not in told)]
