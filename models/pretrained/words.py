"""Words predicted by a model of another library: its class with a head, over the bare model that is loaded.

The head's own code makes scores of rows, so whatever it does to them (a transform, a scale, a softcap) is its
own. It is tried before it is offered: of rows that the bare model gives it must say what the whole says.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn

from models.errors import SpecError
from models.folders.families import PretrainedFolder
from models.folders.tensor_file import open_tensors
from models.folders.weights import headers
from models.pooling_spec import PredictionCard
from models.predictions.of_folder import PRODUCTS_A_TOKEN, Predictions
from models.predictions.predicting import Predicting
from models.pretrained.tower import Tower
from models.pretrained.weights import brief

MOST_SCORES = 1 << 20  # of a block of rows: 4 MiB
TRIED = 5  # ids
TOLERANCE = 1e-5  # of the largest score
MAPPINGS: dict[Literal["next", "own"], str] = {
    "next": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "own": "MODEL_FOR_MASKED_LM_MAPPING",
}


class _Given(nn.Module):
    """What stands in the bare model's place: it gives back the rows that it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor | None = None, **__: Any) -> Any:
        return _Rows(inputs_embeds)


class _Rows:
    """Rows as a model's output, in which nothing else is that a head may pass on."""

    def __init__(self, rows: Tensor | None) -> None:
        self.last_hidden_state = rows

    def __getitem__(self, place: int) -> Tensor | None:
        return self.last_hidden_state if place == 0 else None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@dataclass(eq=False, kw_only=True)
class ForeignWords:
    """A head: `blocks` as of a WordTable.

    `final`: the norm after the last layer, None where there is none. `lens`: whether it is known which.
    """

    head: Any
    words: int
    of: Literal["next", "own"]
    table: Literal["embedding", "own"]
    nbytes: int
    final: Callable[[Tensor], Tensor] | None = None
    lens: bool = True

    @property
    def rows_at_once(self) -> int:
        """How many rows' scores are held."""
        return max(1, MOST_SCORES // self.words)

    def blocks(self, rows_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Give the scores of rows, float32 [N, words], all words in one block."""
        yield 0, self.head(inputs_embeds=rows_ND[None]).logits[0].float()

    def normed(self, x_ND: Tensor) -> Tensor:
        """Return the rows of a layer that is not the last as the last one's are given."""
        return x_ND if self.final is None else self.final(x_ND)


def read_words(model: nn.Module, config: Any, folder: PretrainedFolder, *, asked: bool) -> ForeignWords | str:
    """Return what predicts words over a bare model, in float32 on the processor; or why there is nothing.

    `asked`: whether a table that is not the embedding's is to be read.
    """
    try:
        return _read(model, config, folder, asked=asked)
    except SpecError as problem:
        return str(problem)
    except Exception as problem:  # noqa: BLE001 - somebody's code raises anything
        return f"what predicts its words cannot be run: {brief(problem)}"


def _read(model: nn.Module, config: Any, folder: PretrainedFolder, *, asked: bool) -> ForeignWords:
    cls, of = _class(config)
    with torch.device("meta"):
        whole: Any = cls._from_config(config)
    prefix = whole.base_model_prefix
    if type(getattr(whole, prefix, None)) is not type(model) or config.is_encoder_decoder:
        raise SpecError(f"{cls.__name__} is not one head on {type(model).__name__}")
    setattr(whole, prefix, model)
    whole.tie_weights()
    missing = [name for name, one in whole.named_parameters() if one.is_meta]
    if unread := [name for name, one in whole.named_buffers() if one.is_meta]:
        raise SpecError(f"its head has numbers that are not read here: {unread[0]}")
    table = whole.get_output_embeddings().weight
    _fill(whole, missing, folder, table=table, asked=asked)
    whole.eval()
    table = whole.get_output_embeddings().weight
    own = sum(whole.get_parameter(name).nbytes for name in missing)
    tied = table is model.get_input_embeddings().weight
    final, lens = _final_norm(model)
    expected = _scores(whole, model)
    setattr(whole, prefix, _Given())
    made = ForeignWords(
        head=whole,
        words=int(table.shape[0]),
        of=of,
        table="embedding" if tied else "own",
        nbytes=own,
        final=final,
        lens=lens,
    )
    _try(made, model, expected)
    return made


def _class(config: Any) -> tuple[Any, Literal["next", "own"]]:
    """Return the class that saved the folder, where it predicts words, and of which word a row speaks."""
    (name, *_) = getattr(config, "architectures", None) or ("",)
    for of, mapping in MAPPINGS.items():
        known = getattr(transformers, mapping).get(type(config), None)
        if known is not None and known.__name__ == name:
            return known, of
    raise SpecError(f"its folder was saved by {name or 'a class it does not name'}, which predicts no words")


def _fill(whole: Any, missing: list[str], folder: PretrainedFolder, *, table: Tensor, asked: bool) -> None:
    """Read what the bare model has not; raise SpecError where the file has not got it, or nobody asked."""
    stored = headers(folder.weights)
    for name in missing:
        if name not in stored:
            raise SpecError(f"its file does not hold {name}, by which words are predicted")
        if tuple(stored[name].shape) != tuple(whole.get_parameter(name).shape):
            raise SpecError(f"{name} has shape {list(stored[name].shape)} in its file")
        if whole.get_parameter(name) is table and not asked:
            raise SpecError(
                f"its output table, {name} ({stored[name].nbytes / 2**20:.0f} MiB), is not loaded; serve "
                'with --predictions, or put "predictions": true into its config.json'
            )
    for name in missing:
        with open_tensors(stored[name].file) as file:
            tensor = file.read(name).float()
        if not torch.isfinite(tensor).all():
            raise SpecError(f"{name} holds numbers that are not finite")
        parent, _, leaf = name.rpartition(".")
        setattr(whole.get_submodule(parent), leaf, nn.Parameter(tensor, requires_grad=False))
    whole.tie_weights()


def _final_norm(model: nn.Module) -> tuple[Callable[[Tensor], Tensor] | None, bool]:
    """Return the module outside of all layers whose result the model gives, and whether it is known.

    None is known where what the last layer gives is what the model gives.
    """
    given: list[tuple[str, nn.Module, Any]] = []
    hooks = [
        module.register_forward_hook(lambda one, _, out, name=name: given.append((name, one, out)))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    try:
        last = _hidden(model)
    finally:
        for hook in hooks:
            hook.remove()
    for name, module, out in reversed(given):
        if isinstance(out, Tensor) and out.data_ptr() == last.data_ptr() and out.shape == last.shape:
            of_a_layer = any(part.isdigit() for part in name.split("."))
            return (None, True) if of_a_layer else (module, True)
    return None, False


def _ids(model: Any) -> Tensor:
    words = int(model.get_input_embeddings().weight.shape[0])
    return torch.arange(TRIED)[None] * 7 % words


def _hidden(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=_ids(model), **_plain(model)).last_hidden_state
    return found


def _scores(whole: Any, model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = whole(input_ids=_ids(model), **_plain(whole)).logits[0]
    return found


def _plain(module: Any) -> dict[str, Any]:
    return {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters else {}


def _try(made: ForeignWords, model: nn.Module, expected: Tensor) -> None:
    """Raise SpecError unless a head alone says of rows what the whole said."""
    with torch.inference_mode():
        ((_, scores),) = made.blocks(_hidden(model)[0])
    if scores.shape != expected.shape or not torch.allclose(
        scores, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())
    ):
        raise SpecError("its head does more with a text than with the rows of its last layer")


def let_predict(tower: Tower, words: ForeignWords | str, *, d_model: int) -> Predictions:
    """Let a tower predict words, if it can; return what is told of it."""
    if isinstance(words, str):
        return Predictions(None, words)
    tower.words = words
    tower.predict = Predicting(_as_it_is, words, of=words.of)
    passed = PRODUCTS_A_TOKEN * tower.layers * d_model**2
    card = PredictionCard(
        words=words.words, of=words.of, table=words.table, tokens=words.words * d_model / passed
    )
    return Predictions(card, nbytes=words.nbytes)


def _as_it_is(x_ND: Tensor) -> Tensor:
    return x_ND
