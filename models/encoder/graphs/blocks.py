"""One block, from what enters it to what leaves it: its launches, with nothing asked of what is between."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.attention.backends import RAGGED, TILES, backend_of
from models.attention.masks import band_of
from models.attention.problem import Heads, Rule
from models.attention.ragged import choice as ragged
from models.attention.tiles import backend as tiles
from models.compiled.rules import ScoreRule
from models.device.steps import finish
from models.encoder.block import Block
from models.encoder.graphs.frame import Frame
from models.encoder.rotary import Rotary


@dataclass(frozen=True, slots=True, eq=False)
class WholeBlocks:
    """The blocks of a stack, the rule of each, and what turns its queries and keys, where anything does."""

    blocks: Sequence[Block]
    rules: Sequence[Rule]
    rotaries: Sequence[Rotary]
    heads: Heads

    def are_launches(self, layer: int, longest: int) -> bool:
        """Whether a layer of sequences of up to so many tokens is launches alone, and no work of the host."""
        rule = self.rules[layer]
        if rule.own or rule.apart or rule.spec.similarity != "dot":
            return False
        return backend_of(rule, self.heads, longest) in (RAGGED, TILES)

    def run(self, layer: int, x_ND: Tensor, frame: Frame) -> Tensor:
        """Return what leaves a block, [N, d_model], of what enters it: rows laid out in a frame."""
        block, rule, heads = self.blocks[layer], self.rules[layer], self.heads
        rotary = self.rotaries[layer] if self.rotaries else None
        angles = None if rotary is None else frame.angles(rotary)
        q, k, v = finish(block.project(block.before(x_ND), rotary, angles))
        longest, scale = frame.shape.longest, rule.spec.scale_for(heads.d_k)
        if backend_of(rule, heads, longest) is RAGGED:
            causal = band_of(rule.spec, queries=longest, keys=longest) is not None
            z = ragged.attend(q, k, v, frame.batch, scale=scale, causal=causal).z
        else:
            z = tiles.attend_table(q, k, v, frame.table, scale=scale, rule=ScoreRule.of(rule.spec))
        return finish(block.finish(x_ND, finish(block.output(z)))).contiguous()
