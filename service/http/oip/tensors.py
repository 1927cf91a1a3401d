"""Open Inference Protocol tensors as sequences: a padded batch comes apart.

The same request as `attend`, in other words: what a tensor may be called, and which axes it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from models.outputs import expand
from service.errors import Invalid, Malformed
from service.http.envelope import nearest, options_from_query
from service.http.fields.apart import MATRIX, with_options
from service.http.schemas import AttendRequest
from service.wire.counts import MOST_INPUTS
from service.wire.effort import spend
from service.wire.names import misspelt, quoted
from service.wire.oip import InferRequest, Requested
from service.wire.oip_tensor import Tensor

INPUTS = ("embeddings", "token_ids", "text", "lengths", "memory", "memory_lengths", "mask", "type_ids")
ALIASES = {
    "input_ids": "token_ids",
    "attention_mask": "mask",
    "token_type_ids": "type_ids",
}  # of transformers
OPTIONS = frozenset(AttendRequest.model_fields) | {"timeout", "edits"}
SOURCES = {"embeddings": 2, "token_ids": 1, "text": 0}  # rank of one sequence
COLUMNS = ("text", "lengths", "memory_lengths")  # one a sequence: [B], or [B, 1]
PLAIN_INPUTS = frozenset(INPUTS) - frozenset(COLUMNS)
EXTRAS = ("lengths", "tokens", "next_tokens")  # outputs that are no tensors of the model
DEFAULT_OUTPUTS = ("z", "weights")
MICROSECONDS = 1000
SEQUENCE_US = 5.0  # what one takes, in microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a request is laid out: `batched` inputs have a leading axis, and so have all outputs.

    `names`: what each output is made of, one name but for groups; none for lengths and strings.
    """

    batched: bool
    outputs: tuple[Requested, ...]
    names: tuple[tuple[str, ...], ...]
    texts: bool

    def asks(self, name: str) -> bool:
        """Whether an output is named."""
        return any(output.name == name for output in self.outputs)


def settled(infer: InferRequest) -> InferRequest:
    """Return a request as the rest of this module reads it; raises Invalid for tensors that do not exist.

    Tensors have our names; those of edits are apart. One value a sequence is [B]; Triton's clients send
    [B, 1] to models that batch. Parameters that are not ours are among the ignored.
    """
    if infer.inputs.keys() <= PLAIN_INPUTS and infer.parameters.keys() <= OPTIONS:
        return infer
    inputs: dict[str, Tensor] = {}
    matrices: dict[tuple[int, int], NDArray[Any]] = {}
    for given, tensor in infer.inputs.items():
        if (of := MATRIX.fullmatch(given)) and tensor.array is not None:
            matrices[int(of[1]), int(of[2])] = tensor.array
            continue
        name = ALIASES.get(given, given)
        if name not in INPUTS:
            raise Invalid(f"there is no input {quoted(given)}; {nearest(given, INPUTS)}")
        if name in inputs:
            raise Invalid(f"{name} is given twice, once as {given}; send one")
        column = name in COLUMNS and len(tensor.shape) == 2 and tensor.shape[1] == 1
        inputs[name] = _flat(tensor) if column else tensor
    strangers = infer.parameters.keys() - OPTIONS
    for name in strangers:
        if near := misspelt(name, OPTIONS):
            raise Invalid(f"{quoted(name)} is no parameter here; did you mean {near}?")
    ours = {name: value for name, value in infer.parameters.items() if name in OPTIONS}
    ignored = (*infer.ignored, *sorted(strangers))
    return replace(infer, inputs=inputs, parameters=ours, ignored=ignored, matrices=matrices)


def plan_of(infer: InferRequest) -> Plan:
    """Return the layout of a settled request; raises Invalid for outputs that do not exist."""
    given = [name for name in SOURCES if name in infer.inputs]
    if len(given) != 1:
        raise Invalid(
            f"give exactly one of embeddings, token_ids and text; the request has {len(given)} of them"
        )
    source = infer.inputs[given[0]]
    for name, tensor in infer.inputs.items():
        if (tensor.datatype == "BYTES") != (name == "text"):
            raise Invalid(f"{name} has datatype {tensor.datatype}; BYTES is for text, and for nothing else")
    rank = len(source.shape) - SOURCES[given[0]]
    if rank not in (0, 1):
        shapes = "[B] or [B, 1]" if given[0] == "text" else "one sequence, or a batch of them"
        raise Invalid(f"{given[0]} has shape {list(source.shape)}; give {shapes}")
    batched = rank == 1
    if batched and source.shape[0] > MOST_INPUTS:  # before a sequence is made of any of them
        raise Invalid(f"the batch has {source.shape[0]} sequences; give at most {MOST_INPUTS}")
    outputs = _outputs(infer, batched=batched)
    names = tuple([() if output.name in EXTRAS else expand((output.name,)) for output in outputs])
    full = [name for group in names for name in group]
    if len(set(full)) != len(full):
        raise Malformed("an output is asked for twice, by its own name and by that of its group")
    return Plan(batched=batched, outputs=outputs, names=names, texts=given[0] == "text")


def attend_envelope(infer: InferRequest, plan: Plan) -> dict[str, Any]:
    """Return the same request as `attend` takes it, every sequence of its own length, tensors as views.

    Raises Malformed where a length disagrees with another, Invalid for wrong options.
    """
    tensors = {name: tensor.array for name, tensor in infer.inputs.items() if tensor.array is not None}
    options = _options(infer.parameters)
    names = [name for group in plan.names for name in group]
    if plan.asks("next_tokens") and "next_ids" not in names:
        names.append("next_ids")
    options["outputs"] = names or [DEFAULT_OUTPUTS[0]]
    if not plan.batched:
        one: dict[str, Any] = dict(tensors)
        for name in ("lengths", "memory_lengths"):
            if name in one:
                raise Invalid(f"{name} is for batches, and this is one sequence")
        if plan.texts:
            one["text"] = _text(infer.inputs["text"].texts[0])
        return with_options({"inputs": [one], "matrices": infer.matrices}, options)
    count = infer.inputs[next(name for name in SOURCES if name in infer.inputs)].shape[0]
    if count == 0:
        raise Invalid("the batch is empty; give at least one sequence")
    spend(SEQUENCE_US * count)
    inputs = [_sequence(infer, tensors, place, count) for place in range(count)]
    return with_options({"inputs": inputs, "matrices": infer.matrices}, options)


def _outputs(infer: InferRequest, *, batched: bool) -> tuple[Requested, ...]:
    """Return what is asked for; with nothing named, z and weights, and the lengths that undo the padding."""
    if infer.outputs is None:
        names = (*DEFAULT_OUTPUTS, "lengths") if batched else DEFAULT_OUTPUTS
        return tuple(Requested(name, infer.binary) for name in names)
    if "text" not in infer.inputs and "tokens" in [output.name for output in infer.outputs]:
        raise Invalid("the output tokens is for text, and this is none")
    return infer.outputs


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contract's options from request parameters; strings are read as a query's values are.

    `timeout`, in microseconds, is what Triton's clients have for a deadline.
    """
    options = {name: value for name, value in parameters.items() if not isinstance(value, str)}
    options |= options_from_query((name, text) for name, text in parameters.items() if isinstance(text, str))
    for name in ("inputs", "outputs"):
        if name in options:
            raise Invalid(f"{name} is no parameter; it stands beside parameters")
    timeout = options.pop("timeout", None)
    if timeout is not None:
        if type(timeout) is not int or timeout < 1:
            raise Invalid("timeout must be a number of microseconds, 1 or more")
        options.setdefault("deadline_ms", max(1, timeout // MICROSECONDS))
    return options


def _sequence(
    infer: InferRequest, tensors: Mapping[str, NDArray[Any]], place: int, count: int
) -> dict[str, Any]:
    """Return one sequence of a batch, cut to its own length."""
    for name, tensor in infer.inputs.items():
        if not tensor.shape or tensor.shape[0] != count:
            raise Malformed(f"{name} has shape {list(tensor.shape)}, but the batch has {count} sequences")
    one: dict[str, Any] = {}
    if "text" in infer.inputs:
        one["text"] = _text(infer.inputs["text"].texts[place])
    length = memory_length = None
    for name in ("embeddings", "token_ids"):
        if name in tensors:
            length = _length(tensors, "lengths", place, longest=tensors[name].shape[1])
            one[name] = tensors[name][place, :length]
    if length is None and "lengths" in tensors:
        raise Invalid("lengths is for padded tensors; a text has its own")
    if "memory" in tensors:
        if tensors["memory"].ndim < 2:
            raise Invalid("memory of a batch must have shape [B, S, d_model]")
        memory_length = _length(tensors, "memory_lengths", place, longest=tensors["memory"].shape[1])
        one["memory"] = tensors["memory"][place, :memory_length]
    elif "memory_lengths" in tensors:
        raise Invalid("memory_lengths is given without memory")
    if "type_ids" in tensors:
        one["type_ids"] = _cut(tensors["type_ids"][place], length, length)
    if "mask" in tensors:
        keys = length if memory_length is None else memory_length
        one["mask"] = _cut(tensors["mask"][place], length, keys)
    return one


def _flat(tensor: Tensor) -> Tensor:
    """Return [B] of [B, 1]."""
    if tensor.array is None:
        return replace(tensor, text_shape=tensor.text_shape[:1])
    return replace(tensor, array=tensor.array[:, 0])


def _cut(mask: NDArray[Any], length: int | None, keys: int | None) -> NDArray[Any]:
    """Return one sequence's mask without its padding, [S] or [T, S]; other ranks are refused later."""
    if mask.ndim == 1:
        return mask[:keys]
    return mask[:length, :keys] if mask.ndim == 2 else mask


def _length(tensors: Mapping[str, NDArray[Any]], name: str, place: int, *, longest: int) -> int:
    """Return a sequence's own length: what `name` says, or all of it; raises Malformed."""
    lengths = tensors.get(name)
    if lengths is None:
        return longest
    if lengths.ndim != 1 or lengths.dtype.kind != "i":
        raise Malformed(f"{name} must be whole numbers of shape [B]")
    length = int(lengths[place])
    if not 0 <= length <= longest:
        raise Malformed(f"{name}[{place}] is {length}, but the tensor has {longest} positions")
    return length


def _text(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("text is not UTF-8") from None
