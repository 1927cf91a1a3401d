"""What rerankers, guards and detectors compute of attention matrices, written out from their papers and code.

`weights` is [L, H, T, S] throughout: all of a model's attention, as transformers' eager attention returns it.
"""

from collections.abc import Sequence

import numpy as np

Pair = tuple[int, int]  # a layer and a head; or of positions, a start and an end


def icr_tokens(weights: np.ndarray, question: Pair) -> np.ndarray:
    """Return ICR's score of every token [S]: mean over the question's rows, summed over layers and heads.

    In-Context Re-ranking, arXiv 2410.02642, section 3.2; `score_documents` of its src/in_context_reranker.py.
    """
    return weights[:, :, question[0] : question[1]].mean(2).sum((0, 1))


def icr_documents(weights: np.ndarray, question: Pair, documents: Sequence[Pair]) -> np.ndarray:
    """Return ICR's score of every document, before calibration: the sum over its tokens."""
    tokens = icr_tokens(weights, question)
    return np.array([tokens[start:end].sum() for start, end in documents])


def focus_score(weights: np.ndarray, heads: Sequence[Pair], instruction: Pair, given: Pair) -> float:
    """Return Attention Tracker's focus score: the instruction's share of the last row, its mean over heads.

    arXiv 2411.00348, section 3.3, normalised over instruction and data as its published code does.
    """
    last = [weights[layer, head, -1] for layer, head in heads]
    to_instruction = np.array([row[slice(*instruction)].sum() for row in last])
    to_given = np.array([row[slice(*given)].sum() for row in last])
    return float((to_instruction / (to_instruction + to_given + 1e-8)).mean())


def lookback_ratios(weights: np.ndarray, context: int) -> np.ndarray:
    """Return Lookback Lens' features [L, H, T - context]: how far each row after the context looks back.

    arXiv 2407.07071, equations 1 to 3; step01_extract_attns.py: means over the tokens of the context and over
    those since, not sums.
    """
    ratios = []
    for row in range(context, weights.shape[2]):
        before = weights[:, :, row, :context].mean(-1)
        since = weights[:, :, row, context : row + 1].mean(-1)
        ratios.append(before / (before + since))
    return np.stack(ratios, axis=-1)
