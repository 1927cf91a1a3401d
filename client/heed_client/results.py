"""What comes back: arrays by name for each sequence, and what the server says about the whole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from heed_client.pictures import for_bertviz, for_circuitsvis

__all__ = ["Attended", "ModelCard", "Result", "TokenizedText"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """One sequence's outputs by name, of its own true length.

    Arrays are read-only views of the reply; copy one to write to it. `tokens`, `offsets` (characters,
    half-open) and `special` (added by the model) are None unless the input was text; `truncated` counts
    tokens cut off. `spans`: the ranges of tokens that words or characters came to, where they were asked for;
    by name, where they have names.
    `next_tokens`: the text of each of `next_ids`, nested as they are, where the model has a tokenizer.
    `edited`: whether it was computed with edits.
    """

    tensors: Mapping[str, NDArray[Any]]
    tokens: Sequence[str] | None = None
    offsets: Sequence[tuple[int, int]] | None = None
    special: Sequence[bool] | None = None
    truncated: int = 0
    spans: Sequence[tuple[int, int]] | Mapping[str, tuple[int, int]] | None = None
    next_tokens: Sequence[Any] | None = None
    edited: bool = False

    def __repr__(self) -> str:
        """Name the outputs with their shapes: the numbers would be a screenful."""
        said = [f"{name}={list(array.shape)}" for name, array in self.tensors.items()]
        if self.tokens is not None:
            said.append(f"tokens={list(self.tokens)}")
        if self.truncated:
            said.append(f"truncated={self.truncated}")
        return f"Attended({', '.join(said)})"

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return one output; KeyError says which were asked for."""
        try:
            return self.tensors[name]
        except KeyError:
            raise KeyError(f"{name} was not asked for; there are {', '.join(self.tensors)}") from None

    @property
    def z(self) -> Floats:
        """The contextual vectors, [T, d_model], or [L, T, d_model] for a list of layers."""
        return self["z"]

    @property
    def z_heads(self) -> Floats:
        """Each head's z before W_O, [H, T, d_v], or [L, H, T, d_v] for a list of layers."""
        return self["z_heads"]

    @property
    def output_norms(self) -> Floats:
        """How much of z each key is, head by head, W_O in it: [H, T, S], or [L, H, T, S]."""
        return self["output_norms"]

    @property
    def embedded(self) -> Floats:
        """What enters the first block, [T, d_model]; no layer axis."""
        return self["embedded"]

    @property
    def weights(self) -> Floats:
        """The softmax rows, [H, T, S], or [L, H, T, S] for a list of layers."""
        return self["weights"]

    @property
    def hidden(self) -> Floats:
        """The block's output, [T, d_model] (whole models)."""
        return self["hidden"]

    @property
    def pooled(self) -> Floats:
        """The sentence embedding, [d_model], or [N, d_model] of spans."""
        return self["pooled"]

    @property
    def mixed(self) -> Floats:
        """The weighted sum of attention over a head set: [T, S]; of columns [T, N]; reduced [S] or [N]."""
        return self["mixed"]

    @property
    def share(self) -> Floats:
        """Each row's mass on one span over its mass on several, [P, T]."""
        return self["share"]

    @property
    def head_profile(self) -> Floats:
        """Self, previous, entropy, distance, its variance and induction of each head, [H, 6]."""
        return self["head_profile"]

    @property
    def next_ids(self) -> NDArray[np.int32]:
        """The likeliest next tokens of each row, [T, k], likeliest first."""
        return self["next_ids"]

    @property
    def next_logprobs(self) -> Floats:
        """Their log-probabilities, [T, k]."""
        return self["next_logprobs"]

    @property
    def logprobs(self) -> Floats:
        """Log-probabilities of the tokens that follow, [T], or of `targets`, [T, N]."""
        return self["logprobs"]

    def for_bertviz(self) -> dict[str, Any]:
        """Return the arguments of `bertviz.head_view` and `model_view`, of these weights [L, H, T, T]."""
        return for_bertviz(self.weights, self.tokens)

    def for_circuitsvis(self, *, layer: int | None = None) -> dict[str, Any]:
        """Return the arguments of `circuitsvis.attention.attention_patterns`; `layer`: which of several."""
        return for_circuitsvis(self.weights, self.tokens, layer=layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Sequence[Attended]):
    """One Attended a sequence, in the order of the inputs.

    `timing` is the server's, in seconds by station (decode, queue, batch, compute, encode), summed over
    `requests` where a batch was split. `model` and `version` are empty for the caller's own Q, K, V.
    """

    sequences: tuple[Attended, ...]
    model: str = ""
    version: str = ""
    tokens: int = 0
    timing: Mapping[str, float] = field(default_factory=dict)
    requests: int = 1

    @overload
    def __getitem__(self, index: int) -> Attended: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Attended]: ...
    def __getitem__(self, index: int | slice) -> Attended | Sequence[Attended]:
        """Return one sequence's outputs, or several."""
        return self.sequences[index]

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.sequences)

    def __iter__(self) -> Iterator[Attended]:
        """Go through the sequences in order."""
        return iter(self.sequences)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One served model; `details` is all the server says about it."""

    name: str
    version: str
    layers: int
    heads: int
    d_model: int
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    details: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedText:
    """The tokens of one text, as many as `len` says: ids [T], and of each its characters, half-open.

    `special`: added by the model; `truncated` counts tokens cut off.
    """

    ids: NDArray[np.int64]
    tokens: Sequence[str]
    offsets: Sequence[tuple[int, int]]
    special: Sequence[bool]
    truncated: int = 0

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)
