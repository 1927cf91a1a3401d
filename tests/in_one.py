"""What attention computes in steps, run to its end."""

from typing import Any

from torch import Tensor

from models.attention import qkv, reductions, reference
from models.attention.problem import Problem
from models.device.steps import finish
from models.outputs import Selection
from models.protocol import Answer, Failure


def contextualize(problem: Problem, *, want_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Return z and the logsumexp."""
    return finish(reference.contextualize(problem, want_lse=want_lse))


def derive(problem: Problem, lse: Tensor | None, selection: Selection, **more: Any) -> dict[str, Tensor]:
    """Return what is made of scores and weights."""
    return finish(reductions.derive(problem, lse, selection, **more))


def attend_qkv(*given: Any) -> Answer | Failure:
    """Return an answer to the caller's own Q, K, V."""
    return finish(qkv.attend_qkv(*given))
