"""One block: W_Q, W_K, W_V, W_O, norms, residuals and feed-forward, on packed rows of many sequences.

A block never sees a sequence boundary, except in attention itself: every row of a batch, whatever its
sequence, passes through the same linears. Shapes: N packed rows, D d_model, H query heads, G key heads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.attention.lengths import OutputLengths
from models.compiled.calls import Points
from models.compiled.native import native
from models.compiled.panels import Projections
from models.device.steps import Steps
from models.encoder.finish import STEP_ROWS, Finish, in_row_steps
from models.encoder.linear import Linear, keep_int8
from models.encoder.mlp import MLP, check_activation, linear, stacked
from models.encoder.norm import Norm, add_norm
from models.encoder.rotary import Rotary
from models.encoder.rowwise.trial import turns_on
from models.spec import ModelSpec

Parameters = Mapping[str, Tensor]


class Block:
    """The parameters of one layer: `project`, then attention elsewhere, then `output` and `finish`."""

    def __init__(
        self, spec: ModelSpec, parameters: Parameters, layer: int, *, in_one_call: bool = True
    ) -> None:
        """Lay the parameters out; `in_one_call`: what follows attention, where compiled code can."""
        self.spec = spec
        name = f"layers.{layer}"
        part = spec.projection
        self._activation = check_activation(part.activation)
        self._widths = [
            spec.heads * spec.key_width,
            spec.key_heads * spec.key_width,
            spec.key_heads * spec.value_width,
        ]
        kinds = (part.query, part.key, part.value)
        names = [f"{name}.attention.{which}" for which in ("query", "key", "value")]
        self._fused = stacked(parameters, names) if kinds == ("linear",) * 3 else None
        self._projections: dict[str, Callable[[Tensor], Tensor]] = {}
        if self._fused is None:
            for which, own, kind in zip(("query", "key", "value"), names, kinds, strict=True):
                self._projections[which] = self._projection(parameters, own, kind)
        self._output = linear(parameters, f"{name}.attention.output") if part.output == "linear" else None
        self.output_lengths = OutputLengths(
            None if self._output is None else self._output.matrix, heads=spec.heads
        )
        self._head_norms: tuple[Norm, Norm] | None = None
        if part.qk_norm != "none":
            head_norm = replace(spec.norm, kind=part.qk_norm)
            self._head_norms = (
                Norm(parameters, f"{names[0]}_norm", head_norm),
                Norm(parameters, f"{names[1]}_norm", head_norm),
            )

        def norm(suffix: str) -> Norm | None:
            return Norm(parameters, f"{name}.{suffix}", spec.norm) if spec.norm.kind != "none" else None

        sandwich = spec.norm.placement == "sandwich"
        skips = spec.norm.skip_first and layer == 0
        self._attention_norm = None if skips else norm("attention_norm")
        self._attention_norm_after = norm("attention_norm_after") if sandwich else None
        self._feed_forward: MLP | None = None
        self._feed_forward_norm = self._feed_forward_norm_after = None
        if spec.feed_forward is not None:
            of = spec.feed_forward.activation
            self._feed_forward = MLP(parameters, f"{name}.feed_forward", of)
            self._feed_forward_norm = norm("feed_forward_norm")
            self._feed_forward_norm_after = norm("feed_forward_norm_after") if sandwich else None
        self._try_kernels(next(iter(parameters.values()), None))
        self._goes_in_one = in_one_call
        self.in_one = self._finish() if in_one_call else None

    @property
    def linears(self) -> list[Linear]:
        """The linear layers it has."""
        used = [self._fused, self._output, self._feed_forward, *self._projections.values()]
        inside = [linear for one in used if isinstance(one, MLP) for linear in one.linears]
        return [*inside, *(one for one in used if isinstance(one, Linear))]

    @property
    def kernels(self) -> set[str]:
        """Which linear kernels this block's weights run on."""
        return {one.kernel for one in self.linears}

    def watch(self) -> None:
        """Go operator by operator, and note how large inputs of each linear layer are, until `quantize`."""
        self.in_one = None
        for one in self.linears:
            one.largest = torch.zeros(one.inputs)

    def quantize(self) -> None:
        """Keep the linear layers in int8, by what was noted; in one call again, where compiled code can."""
        for one in (self._fused, self._output, self._feed_forward, *self._projections.values()):
            if isinstance(one, MLP):
                one.quantize()
            elif isinstance(one, Linear):
                keep_int8([one], smoothed=one is self._fused)
        for layer in self.linears:
            layer.largest = None
        self.in_one = self._finish() if self._goes_in_one else None

    @property
    def _norm_before(self) -> Norm | None:
        return None if self.spec.norm.placement == "post" else self._attention_norm

    def before(self, x_ND: Tensor) -> Tensor:
        """Return what attention reads: x itself, or x normalised where the norm comes first."""
        first = self._norm_before
        return x_ND if first is None else first(x_ND)

    def project(
        self, x_ND: Tensor, rotary: Rotary | None = None, angles: tuple[Tensor, Tensor] | None = None
    ) -> Steps[tuple[Tensor, Tensor, Tensor]]:
        """Return q [N, H, d_k], k [N, G, d_k], v [N, G, d_v] of packed rows.

        q and k are turned by what `rotary` gave for `angles`; without it, positions are not applied.
        """
        spec = self.spec
        if self._fused is not None:
            q, k, v = self.split_qkv((yield from in_row_steps(self._fused, x_ND)))
        else:
            q = yield from in_row_steps(self._projections["query"], x_ND)
            v = k = yield from in_row_steps(self._projections["key"], x_ND)
            if spec.projection.value != "key":
                v = yield from in_row_steps(self._projections["value"], x_ND)
            q = q.view(-1, spec.heads, spec.key_width)
            k = k.view(-1, spec.key_heads, spec.key_width)
            v = v.view(-1, spec.key_heads, spec.value_width)
        if rotary is not None and angles is not None:
            q, k = rotary.turn(q, k, *angles, self._head_norms, in_place=self._fused is not None)
        elif self._head_norms is not None:
            q, k = self._head_norms[0](q), self._head_norms[1](k)
        return q, k, v

    def split_qkv(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, as `project` does, of rows that hold them side by side."""
        spec = self.spec
        q, k, v = torch.split(qkv, self._widths, dim=-1)
        return (
            q.view(-1, spec.heads, spec.key_width),
            k.view(-1, spec.key_heads, spec.key_width),
            v.view(-1, spec.key_heads, spec.value_width),
        )

    def projected(self, rotary: Rotary | None) -> Projections | None:
        """Return what `Native.block` reads of this layer, None where compiled code does not run all of it.

        `rotary` turns q and k.
        """
        spec, panels = self.spec, None if self._fused is None else self._fused.panels
        output = None if self._output is None else self._output.panels
        before, of_heads = self._norm_before, self._head_norms or (None, None)
        if native() is None or panels is None or spec.key_width != spec.value_width:
            return None
        if self._output is not None and output is None:
            return None
        if not all(one is None or one.compiled for one in (before, *of_heads)):
            return None
        return Projections(
            qkv=panels,
            output=output,
            heads=spec.heads,
            key_heads=spec.key_heads,
            before=before,
            query_norm=of_heads[0],
            key_norm=of_heads[1],
            rotation=rotary,
        )

    def project_by(self, by: Projections, x_ND: Tensor, lengths: Sequence[int]) -> Steps[Tensor]:
        """Return q beside k beside v as attention reads them of sequences' rows x, not normalised yet."""
        ours = native()
        assert ours is not None
        projected = x_ND.new_empty(x_ND.shape[0], by.qkv.out)
        start = 0
        for length in lengths:
            step = STEP_ROWS if length > 2 * STEP_ROWS else max(1, length)
            for first in range(0, length, step):
                if first:
                    yield
                rows = slice(start + first, start + min(first + step, length))
                ours.project(x_ND[rows], by, projected[rows], first=first, length=length)
            start += length
        return projected

    def output(self, z_NHV: Tensor) -> Steps[Tensor]:
        """Return z: heads concatenated, times W_O, [N, d_model]."""
        concatenated = z_NHV.flatten(-2)
        if self._output is None:
            return concatenated
        return (yield from in_row_steps(self._output, concatenated))

    def finish(self, x_ND: Tensor, z_ND: Tensor, points: Points | None = None) -> Steps[Tensor]:
        """Return the block's output [N, d_model]: residual, norm and feed-forward around z; x entered it.

        `points` are filled on the way.
        """
        if self.in_one is not None:
            return (yield from self.in_one(x_ND, z_ND, points))
        post, inner = self.spec.norm.placement == "post", self._attention_norm_after
        if self.spec.parallel:
            return (yield from self._finish_parallel(x_ND, z_ND, points))
        first = self._attention_norm if post else self._feed_forward_norm
        x, network = x_ND if self.spec.residual else None, self._feed_forward
        onto = network if points is None and self._adds_in_product else None
        y_ND, normed = add_norm(
            x, z_ND,
            inner=inner, outer=first, more_D=None if onto is None else onto.down.bias,
            reads_sum=points is not None or not post,
        )  # fmt: skip
        if onto is not None:
            return onto.add_to(y_ND, normed)
        if points is not None:
            points.put(mid=y_ND)
        y_ND = normed if post else y_ND
        if network is None:
            return y_ND
        inner, last = self._feed_forward_norm_after, self._feed_forward_norm if post else None
        fed = yield from in_row_steps(network, normed)
        if points is not None:
            fed, inner = fed if inner is None else inner(fed), None
            points.put(feed_forward=fed)
        return add_norm(y_ND if x is not None else None, fed, inner=inner, outer=last, reads_sum=False)[1]

    @property
    def _adds_in_product(self) -> bool:
        """Whether what the network makes is added as it is made, to a sum that is read for nothing else."""
        network, norm = self._feed_forward, self.spec.norm
        normed = norm.placement == "pre" and self._feed_forward_norm is not None
        return network is not None and network.down.adds and normed and self.spec.residual

    def _finish_parallel(self, x_ND: Tensor, z_ND: Tensor, points: Points | None) -> Steps[Tensor]:
        """Do what `finish` does where attention and feed-forward read the same rows."""
        assert self._feed_forward is not None
        normed = x_ND if self._feed_forward_norm is None else self._feed_forward_norm(x_ND)
        if points is None and self._adds_in_product:
            y_ND, _ = add_norm(x_ND, z_ND, more_D=self._feed_forward.down.bias)
            return self._feed_forward.add_to(y_ND, normed)
        y_ND = x_ND + z_ND
        fed = yield from in_row_steps(self._feed_forward, normed)
        if points is not None:
            points.put(mid=y_ND, feed_forward=fed)
        return y_ND + fed

    def _try_kernels(self, like: Tensor | None) -> None:
        """Have kernels for a GPU compiled and tried as the model is loaded, such as were not yet."""
        spec = self.spec
        norms = (self._attention_norm, self._attention_norm_after, self._feed_forward_norm)
        for one in (*norms, self._feed_forward_norm_after):
            if one is not None:
                _ = one.one_launch
        if spec.positions.kind == "rotary" and like is not None:
            turns_on(
                like.device, like.dtype, spec.key_width, spec.turned // 2,
                interleaved=spec.positions.interleaved, norm=spec.projection.qk_norm,
            )  # fmt: skip

    def _finish(self) -> Finish | None:
        """Return `finish` as one call, None where that does not do all that this block does."""
        if self._feed_forward is None:
            return None
        post = self.spec.norm.placement == "post"
        first, last = self._attention_norm, self._feed_forward_norm
        norms = {
            "attended": self._attention_norm_after,
            "before": first if post else last,
            "fed": self._feed_forward_norm_after,
            "after": last if post else None,
        }
        spec = self.spec
        return Finish.of(self._feed_forward, norms, post=post, parallel=spec.parallel, residual=spec.residual)

    def _projection(self, parameters: Parameters, name: str, kind: str) -> Callable[[Tensor], Tensor]:
        if kind == "linear":
            return linear(parameters, name)
        return MLP(parameters, name, self._activation) if kind == "mlp" else _identity


def _identity(x: Tensor) -> Tensor:
    return x
