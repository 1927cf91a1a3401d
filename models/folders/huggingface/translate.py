"""A Hugging Face `config.json` translated into a ModelSpec, by the table of its `model_type`.

Every field of a configuration is read, or known to change nothing (`models/folders/huggingface/known.py`), or
the model is refused by the field's name: never approximated.
"""

from typing import Any

from models.config import shown
from models.errors import SpecError
from models.folders.huggingface.decoders import DECODERS
from models.folders.huggingface.encoders import ENCODERS
from models.folders.huggingface.family import Family
from models.folders.huggingface.fields import Config, Noted
from models.folders.huggingface.known import IDLE
from models.spec import ModelSpec

FAMILIES: dict[str, Family] = ENCODERS | DECODERS
MOST_NAMED = 5  # unknown fields in one message

# Whatever the family: a configuration that says otherwise describes another model.
EVERYWHERE: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "quantization_config": (None,),
    "pruned_heads": ({}, None),
    "position_embedding_type": ("absolute", None),
}


def translate(config: Config) -> tuple[ModelSpec, Family]:
    """Return the specification that a Hugging Face configuration describes, and its family.

    Raises SpecError for an unknown model_type, a missing or ill-typed field, or what cannot be represented.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise SpecError(f"model_type is {shown(name)}; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    config = Noted(config)
    for key, allowed in {**EVERYWHERE, **family.holds}.items():
        if key in config and config[key] not in allowed:
            raise SpecError(
                f"{key} is {shown(config[key])}; for {name} only {shown(allowed[0])} is supported"
            )
    body: dict[str, Any] = {}
    for path, value in family.table.items():
        *parents, leaf = path.split(".")
        at = body
        for parent in parents:
            at = at.setdefault(parent, {})
        at[leaf] = value(config) if callable(value) else value
    if unknown := sorted(set(config) - config.read - IDLE - family.idle):
        more = len(unknown) - MOST_NAMED
        listed = ", ".join(map(shown, unknown[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
        raise SpecError(f"config.json has {listed}; what that changes in a model of type {name} is not known")
    return ModelSpec.from_config(body), family
