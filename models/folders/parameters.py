"""The canonical names of a model's parameters and their exact shapes, as its specification fixes them.

Every family's files are read into these names. Matrices are [out, in], as `torch.nn.Linear` keeps them.
No torch here, so that a folder can be checked, or written, without it.
"""

from models.spec import ModelSpec

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(spec: ModelSpec) -> Shapes:
    """Return the shape of every parameter that a model of this specification must have, by name."""
    shapes: Shapes = {}
    width = spec.embedding_width
    if spec.embedding is not None:
        shapes["embedding.tokens.weight"] = (spec.embedding.vocabulary, width)
        if spec.embedding.types:
            shapes["embedding.types.weight"] = (spec.embedding.types, width)
    if spec.positions.rows:
        shapes["embedding.positions.weight"] = (spec.positions.rows, width)
    if spec.embedding is not None and spec.embedding.norm:
        shapes |= _vector("embedding.norm", width, bias=spec.norm.bias)
    if spec.widens:
        shapes |= _linear("embedding.widen", width, spec.d_model, bias=True)
    if spec.positions.kind == "relative":
        shapes["positions.bias.weight"] = (spec.positions.buckets, spec.heads)
    for layer in range(spec.parameter_sets):
        shapes |= _block(spec, layer)
    if spec.norm.final:
        shapes |= _norm(spec, "final_norm")
    return shapes


def optional_shapes(spec: ModelSpec) -> Shapes:
    """Return the parameters that a file may hold and serving does not read.

    What words are predicted by; and a table of positions that distances have taken the place of (BERT).
    """
    if spec.embedding is None:
        return {}
    shapes: Shapes = {"head.weight": (spec.embedding.vocabulary, spec.d_model), **prediction_shapes(spec)}
    if spec.positions.distances:
        assert spec.positions.max_positions is not None
        shapes["embedding.positions.weight"] = (spec.positions.max_positions, spec.embedding_width)
    return shapes


def prediction_shapes(spec: ModelSpec) -> Shapes:
    """Return the parameters that predictions of words need beside the model's own.

    There are none where a tied table is all, or where there are no words.
    """
    if spec.embedding is None:
        return {}
    words, head = spec.embedding.vocabulary, spec.prediction
    width = spec.d_model if head.activation is None else spec.embedding_width
    shapes: Shapes = {} if spec.tied_output else {"head.weight": (words, width)}
    if head.activation is not None:
        shapes |= _linear("head.dense", spec.d_model, width, bias=head.dense_bias)
        shapes |= _vector("head.norm", width, bias=head.norm_bias)
    return shapes | ({"head.bias": (words,)} if head.bias else {})


def _block(spec: ModelSpec, layer: int) -> Shapes:
    name = f"layers.{layer}"
    shapes = _attention(spec, f"{name}.attention")
    norms = ["attention_norm"] if spec.norm.kind != "none" else []
    if spec.feed_forward is not None:
        d_ff, bias = spec.feed_forward.d_ff, spec.feed_forward.bias
        shapes |= _linear(f"{name}.feed_forward.up", spec.d_model, d_ff, bias=bias)
        shapes |= _linear(f"{name}.feed_forward.down", d_ff, spec.d_model, bias=bias)
        if spec.feed_forward.kind == "gated":
            shapes |= _linear(f"{name}.feed_forward.gate", spec.d_model, d_ff, bias=bias)
        norms += ["feed_forward_norm"] if norms else []
    if spec.norm.skip_first and layer == 0:
        norms.remove("attention_norm")
    if spec.norm.placement == "sandwich":
        norms += [f"{norm}_after" for norm in norms]
    for norm in norms:
        shapes |= _norm(spec, f"{name}.{norm}")
    return shapes


def _attention(spec: ModelSpec, name: str) -> Shapes:
    part = spec.projection
    shapes: Shapes = {}
    if spec.positions.distances:
        shapes[f"{name}.distances.weight"] = (spec.positions.distances, spec.key_width)
    for which, kind, width in (
        ("query", part.query, spec.heads * spec.key_width),
        ("key", part.key, spec.key_heads * spec.key_width),
        ("value", part.value, spec.key_heads * spec.value_width),
    ):
        if kind == "linear":
            shapes |= _linear(f"{name}.{which}", spec.d_model, width, bias=part.bias)
        elif kind == "mlp":  # as wide inside as outside
            shapes |= _linear(f"{name}.{which}.up", spec.d_model, width, bias=part.bias)
            shapes |= _linear(f"{name}.{which}.down", width, width, bias=part.bias)
    if part.output == "linear":
        width = spec.heads * spec.value_width
        shapes |= _linear(f"{name}.output", width, spec.d_model, bias=part.output_bias)
    if part.qk_norm != "none":
        bias = part.qk_norm == "layer" and spec.norm.bias
        shapes |= _vector(f"{name}.query_norm", spec.key_width, bias=bias)
        shapes |= _vector(f"{name}.key_norm", spec.key_width, bias=bias)
    return shapes


def _norm(spec: ModelSpec, name: str) -> Shapes:
    return _vector(name, spec.d_model, bias=spec.norm.bias and spec.norm.kind != "rms")


def _vector(name: str, width: int, *, bias: bool) -> Shapes:
    return dict.fromkeys([f"{name}.weight", f"{name}.bias"][: 1 + bias], (width,))


def _linear(name: str, inner: int, outer: int, *, bias: bool) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outer, inner)}
    return weight | {f"{name}.bias": (outer,)} if bias else weight
