"""From a checked request to Items: texts tokenized, shapes compared with the model and with each other.

Whatever is wrong with a request beyond its form is said here, before admission and before any compute.
The same for every format.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.errors import SpecError
from models.mechanism import AttentionSpec
from models.outputs import Mix, Selection
from models.protocol import QKV, Item, ModelCard, Models, Text, Tokens
from service.errors import Invalid, TooLarge
from service.http.fields.arrays import any_mask, key_mask, numbers_of, token_ids_of, type_ids_of, vectors
from service.http.fields.edits import EditResolver, Site
from service.http.fields.mixing import mixture_of, require_few_pairs, with_mix, with_share
from service.http.fields.positions import Axis
from service.http.fields.predictions import with_targets, words_of
from service.http.schemas import (
    AttendInput,
    AttendRequest,
    AttentionInput,
    AttentionOptions,
    AttentionRequest,
)
from service.http.selection import narrowed, require_pooled_spans, select_attend, select_attention
from service.http.texts.axes import Axes, axes_of
from service.http.texts.reading import OR_CUT, Reading, is_text, read_text, read_together
from service.wire.effort import spend
from service.wire.reply import FoundSpans

NO_NAMES = "spans have names in the inputs of models; give positions or ranges"
SEQUENCE_US, PROBLEM_US = 7.0, 20.0  # what one of them takes to be resolved, in microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """One request, ready for admission: an Item an input; `texts` is None where the input was no text."""

    items: list[Item]
    texts: list[Text | None]
    spans: list[FoundSpans | None]  # where the server found them, for the reply to tell

    @property
    def edited(self) -> list[bool]:
        """Which inputs have edits."""
        return [bool(item.edits) for item in self.items]

    @property
    def tokens(self) -> int:
        """The query positions of all inputs."""
        return sum(item.input.queries for item in self.items)


def resolve_attend(
    request: AttendRequest,
    *,
    runtime: Models,
    how: Reading,
    read: Sequence[Text | None] | None = None,
) -> Resolved:
    """Return the sequences of a request to a model; `read` are its texts, where they have been read before.

    Raises Invalid (wrong width, shape, range, an output not offered, text without a tokenizer), TooLarge
    (sequence_too_long), Malformed (NaN, infinities).
    """
    card = how.card
    selection = select_attend(request, card)
    mixture = mixture_of(selection, request.heads, card) if "mixed" in selection else None
    if selection.pairs is not None or mixture is not None:
        require_few_pairs(selection, mixture, len(request.inputs))
    targets = words_of(request.targets, card, runtime, path="targets")
    positional = request.rows is not None or request.share is not None or mixture is not None
    spend(SEQUENCE_US * len(request.inputs))
    if read is None and how.bare:
        read = read_together(request.inputs, how, runtime)
    items: list[Item] = []
    texts: list[Text | None] = []
    found: list[FoundSpans | None] = []
    everywhere: list[Axes | None] = []
    for index, given in enumerate(request.inputs):
        path = f"{how.field}[{index}]"
        text = read[index] if read is not None else _text(given, index, how, runtime)
        if text is not None and "pooled" in selection:
            _check_pooled(text, index, how)
        tokens = _tokens(given, path, card=card, text=text)
        asked = request.spans if given.spans is None else given.spans
        crossed = given.memory is not None and card.part != "decoder"  # whose own attention is to itself
        if crossed:
            _require_no_square(selection, asked, path)
        _check_profiled(selection, tokens, path)
        chosen, told, axes = selection, None, None
        if positional or asked is not None or given.edits:
            axes = axes_of(
                asked,
                given,
                unit=request.span_unit,
                text=text,
                queries=tokens.queries,
                keys=tokens.keys if crossed else None,
                path=path,
            )
            chosen, told = _narrowed(selection, request, axes, mixture, card), axes.told
        if given.targets is not None or "logprobs" in chosen:
            chosen = with_targets(chosen, targets, given.targets, tokens, card, runtime, path=path)
        items.append(Item(card=card, input=tokens, selection=chosen, deterministic=request.deterministic))
        texts.append(text)
        found.append(told)
        everywhere.append(axes)
    if any(axes is not None for axes in everywhere):
        items = _edited(items, request.inputs, everywhere, card)
    return Resolved(items=items, texts=texts, spans=found)


def resolve_attention(request: AttentionRequest) -> Resolved:
    """Return the problems of a request with its own queries, keys and values.

    Raises Invalid (shapes that do not fit each other, ranges, an unfit rule), Malformed (NaN, infinities).
    """
    rule = _rule(request)
    spend(PROBLEM_US * len(request.inputs))
    items: list[Item] = []
    everywhere: list[Axes | None] = []
    for index, given in enumerate(request.inputs):
        path = f"inputs[{index}]"
        qkv = _qkv(given, path, rule=rule)
        selection = select_attention(request, heads=int(qkv.query.shape[0]))
        own = Axis(length=qkv.queries, path=path, unnamed=NO_NAMES)
        chosen = narrowed(selection, rows=request.rows, queries=own)
        items.append(Item(card=None, input=qkv, selection=chosen, deterministic=request.deterministic))
        everywhere.append(Axes(queries=own, keys=Axis(length=qkv.keys, path=path, unnamed=NO_NAMES)))
    items = _edited(items, request.inputs, everywhere, None)
    return Resolved(items=items, texts=[None] * len(items), spans=[None] * len(items))


def _text(given: AttendInput, index: int, how: Reading, runtime: Models) -> Text | None:
    """Return an input's text in tokens, None where it is none."""
    if not is_text(given, f"{how.field}[{index}]", how.card):
        return None
    return read_text(given, index, how, runtime)


def _check_pooled(text: Text, index: int, how: Reading) -> None:
    """Raise TooLarge for a text that its model's own files would have cut before it is pooled."""
    card, limit = how.card, how.card.max_text_tokens
    if limit is not None and len(text.ids) > limit:
        by = f", as {card.text_limit} says" if card.text_limit else ""
        raise how.too_long(
            index,
            f"the text has {len(text.ids)} tokens, and model {card.name} pools at most {limit}{by}; "
            f"shorten it{OR_CUT}",
        )


def _check_profiled(selection: Selection, tokens: Tokens, path: str) -> None:
    """Raise Invalid where a profile is asked for of tokens of which it is not known what they are."""
    if "head_profile" in selection and tokens.ids is None:
        raise Invalid(
            f"head_profile needs to know which tokens are the same; {path} has embeddings: "
            "give token_ids or text"
        )


def _require_no_square(selection: Selection, spans: object, path: str) -> None:
    """Raise Invalid for what is of queries and keys of one sequence, of an input that has memory."""
    listed = spans is not None and not isinstance(spans, dict)
    square = {name: name in selection for name in ("rollout", "head_profile")}
    for name, wrong in {"spans": listed, **square}.items():
        if wrong:
            raise Invalid(f"{name} needs queries and keys of one sequence; {path} has memory")


def _narrowed(
    selection: Selection, request: AttendRequest, axes: Axes, mixture: Mix | None, card: ModelCard
) -> Selection:
    """Return the selection with all that depends on one input's positions put in."""
    if axes.spans is not None and "pooled" in selection:
        require_pooled_spans(card)
    selection = narrowed(selection, rows=request.rows, queries=axes.queries, spans=axes.spans)
    if mixture is not None:
        selection = with_mix(
            selection,
            mixture,
            columns=request.columns,
            reduce=request.reduce,
            queries=axes.queries,
            keys=axes.keys,
        )
    if request.share is not None:
        selection = with_share(selection, request.share, keys=axes.keys)
    return selection


def _edited(
    items: list[Item],
    inputs: Sequence[AttendInput | AttentionInput],
    everywhere: Sequence[Axes | None],
    card: ModelCard | None,
) -> list[Item]:
    """Return the items with what their inputs say is to be changed inside attention."""
    resolver = EditResolver(card)
    edited = []
    for item, given, axes in zip(items, inputs, everywhere, strict=True):
        if given.edits and axes is not None:
            site = Site(queries=axes.queries, keys=axes.keys, dims=item.dims)
            item = replace(item, edits=resolver.edits(given.edits, site))
        edited.append(item)
    return edited


def _tokens(given: AttendInput, path: str, *, card: ModelCard, text: Text | None) -> Tokens:
    """Return one sequence for the model, checked against its sizes."""
    embeddings = ids = type_ids = None
    if text is not None:
        ids, type_ids, length = text.ids, text.type_ids, len(text.ids)
    elif given.token_ids is not None:
        ids = token_ids_of(given.token_ids, f"{path}.token_ids", vocabulary=card.vocabulary)
        length = len(ids)
    else:
        embeddings = vectors(given.embeddings, f"{path}.embeddings", width=card.width)
        length = len(embeddings)
    if length == 0:
        raise Invalid(f"{path} is an empty sequence; give at least one token")
    if given.type_ids is not None:
        type_ids = type_ids_of(given.type_ids, f"{path}.type_ids", length=length, card=card)
    if card.max_tokens is not None and length > card.max_tokens:
        raise TooLarge(
            f"{path} has {length} tokens; model {card.name} has positions for {card.max_tokens}",
            code="sequence_too_long",
        )
    memory = None
    if given.memory is not None:
        if not card.cross:
            raise Invalid(f"{path} has memory; model {card.name} has no cross-attention")
        memory = vectors(given.memory, f"{path}.memory", width=card.d_model)
    mask = None
    if given.mask is not None:
        keys = card.dims(length, None if memory is None else len(memory)).S
        mask = key_mask(given.mask, f"{path}.mask", shapes=((keys,), (length, keys)))
    return Tokens(embeddings=embeddings, ids=ids, type_ids=type_ids, memory=memory, mask=mask)


def _rule(options: AttentionOptions) -> AttentionSpec:
    try:
        return AttentionSpec(
            similarity=options.similarity,
            scale=options.scale,
            causal=options.causal,
            causal_offset=options.causal_offset,
            left_window=options.left_window,
            right_window=options.right_window,
            softcap=options.softcap,
            exclude_self=options.exclude_self,
        )
    except SpecError as error:
        raise Invalid(str(error)) from None


def _qkv(given: AttentionInput, path: str, *, rule: AttentionSpec) -> QKV:
    """Return one problem whose three shapes fit each other; 2-D ones are given one head."""
    arrays = {name: numbers_of(getattr(given, name), f"{path}.{name}") for name in ("query", "key", "value")}
    ranks = {array.ndim for array in arrays.values()}
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    if len(ranks) != 1 or not ranks <= {2, 3}:
        raise Invalid(f"{path} has {shapes}; give all three [H, T, d] or all three [T, d]")
    if not all(array.size for array in arrays.values()):
        raise Invalid(f"{path} has {shapes}; no axis may be empty")
    head_axis = ranks == {3}
    query, key, value = (array if head_axis else array[None] for array in arrays.values())
    if key.shape[:2] != value.shape[:2]:
        raise Invalid(f"{path} has {shapes}; key and value must have as many heads and positions")
    if query.shape[2] != key.shape[2]:
        raise Invalid(f"{path} has {shapes}; query and key must be equally wide")
    if query.shape[0] % key.shape[0]:
        raise Invalid(f"{path} has {shapes}; the heads of key must divide the heads of query")
    heads, length, keys = query.shape[0], query.shape[1], key.shape[1]
    shapes_of_mask = ((keys,), (length, keys), (heads, length, keys))
    mask = any_mask(given.mask, f"{path}.mask", shapes=shapes_of_mask if head_axis else shapes_of_mask[:2])
    return QKV(query=query, key=key, value=value, mask=mask, rule=rule, head_axis=head_axis)
