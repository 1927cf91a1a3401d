"""The rows of the source documents that are pure mathematics, each by the formula it gives.

Row numbers are those of the documents' table of mechanisms. Rows about models, positions and training
(9, 12, 13, 17, 18 in part) are tested where those are built.
"""

import math

import numpy as np
import pytest
import torch

from models.attention.problem import prepare
from models.outputs import Selection
from models.spec import AttentionSpec
from tests.in_one import contextualize, derive

UNSCALED = AttentionSpec(scale=1.0)
ONE = Selection(outputs=("weights", "scores", "value_norms"))


def vectors(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attend(q, k, v, spec=AttentionSpec(), **rest):  # noqa: B008 - frozen
    """z and all outputs of one head: q [T, D], k [S, D], v [S, V] in; [T, V] and [T, S] out."""
    problem = prepare(q[None], k[None], v[None], spec=spec, **rest)
    z, lse = contextualize(problem, want_lse=True)
    return z[0], {name: tensor[0] for name, tensor in derive(problem, lse, ONE).items()}


def test_seed_01_column_layout_equals_the_transposed_row_layout():
    """Q = W_Q X, A = softmax over keys of QᵀK, Z = V Aᵀ, with X [D, T]; unscaled."""
    x = vectors(6, 5)
    w_q, w_k, w_v = (vectors(6, 6, seed=n) for n in (1, 2, 3))
    attention = torch.softmax((w_q @ x).T @ (w_k @ x), dim=-1)
    z_columns = (w_v @ x) @ attention.T
    rows = x.T
    z, made = attend(rows @ w_q.T, rows @ w_k.T, rows @ w_v.T, UNSCALED)
    np.testing.assert_allclose(z, z_columns.T, atol=1e-4)
    np.testing.assert_allclose(made["weights"], attention, atol=1e-5)


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1.0), (None, 1 / 4), (0.125, 0.125), (1 / 16, 1 / 16)])
def test_seed_02_scale_one_root_of_d_k_or_any_number(scale, factor):
    """softmax(QKᵀ·scale)V with d_k 16: by default 1/√16, "by the dimension" is 1/16."""
    q, k, v = vectors(3, 16), vectors(4, 16, seed=1), vectors(4, 16, seed=2)
    z, made = attend(q, k, v, AttentionSpec(scale=scale))
    np.testing.assert_allclose(made["scores"], factor * (q @ k.T), atol=1e-5)
    np.testing.assert_allclose(z, torch.softmax(factor * (q @ k.T), -1) @ v, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_seed_03_one_query_at_a_time_gives_the_vectorised_rows(causal):
    q, k, v = vectors(7, 8), vectors(7, 8, seed=1), vectors(7, 8, seed=2)
    whole, _ = attend(q, k, v, AttentionSpec(causal=causal))
    for i in range(7):
        one, _ = attend(q[i : i + 1], k, v, AttentionSpec(causal=causal, causal_offset=i))
        np.testing.assert_allclose(one[0], whole[i], atol=1e-6)


def test_seed_04_queries_keys_and_values_of_two_sequences_and_two_widths():
    """Q [T, d_k], K [S, d_k], V [S, d_v] → Z [T, d_v], A [T, S]."""
    q, k, v = vectors(3, 4), vectors(5, 4, seed=1), vectors(5, 7, seed=2)
    z, made = attend(q, k, v)
    assert z.shape == (3, 7)
    assert made["weights"].shape == (3, 5)
    np.testing.assert_allclose(z, torch.softmax(q @ k.T / 2, -1) @ v, atol=1e-5)


def test_seed_05_scores_are_before_the_softmax_and_weights_after_it():
    _, made = attend(vectors(6, 8), vectors(6, 8, seed=1), vectors(6, 8, seed=2))
    np.testing.assert_allclose(made["weights"].sum(-1), torch.ones(6), atol=1e-6)
    np.testing.assert_allclose(torch.softmax(made["scores"], -1), made["weights"], atol=1e-6)


def test_seed_06_own_token_not_scored_but_added_as_it_is():
    """z_i = x_i + Σ_{j≠i} softmax_{j≠i}(x_i·x_j/√d) x_j, by hand for (1,0), (0,1), (1,1)."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    z, made = attend(x, x, x, AttentionSpec(exclude_self=True, add_self=True))
    # Token 0 scores 0 with token 1 and 1/√2 with token 2: shares 1 and e^(1/√2) = 2.028115.
    a, b = 1 / 3.0281150, 2.0281150 / 3.0281150
    expected = [
        [1 + a * 0 + b * 1, 0 + a * 1 + b * 1],
        [0 + a * 1 + b * 1, 1 + a * 0 + b * 1],
        [1 + 0.5, 1 + 0.5],
    ]
    np.testing.assert_allclose(z, expected, atol=1e-6)
    assert not made["weights"].diagonal().any()


def test_seed_07_other_tokens_only():
    """As row 6 without x_i; a single token has no other, and its row is zeros."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    z, _ = attend(x, x, x, AttentionSpec(exclude_self=True))
    a, b = 1 / 3.0281150, 2.0281150 / 3.0281150
    np.testing.assert_allclose(z, [[b, a + b], [a + b, b], [0.5, 0.5]], atol=1e-6)
    alone, made = attend(x[:1], x[:1], x[:1], AttentionSpec(exclude_self=True))
    assert torch.equal(alone, torch.zeros(1, 2))
    assert torch.equal(made["weights"], torch.zeros(1, 1))


def test_seed_08_value_is_key_and_the_documents_own_numbers():
    """z = softmax(qKᵀ/2)K with d_k 4: scores 40, 26 → 20, 13 → 0.99908895, 0.00091105.

    The document shows the scores, not the vectors; these make the same ones.
    """
    q = torch.tensor([[4.0, 2.0, 2.0, 4.0]])
    k = torch.tensor([[4.0, 4.0, 4.0, 2.0], [3.0, 2.0, 1.0, 2.0]])
    assert (q @ k.T).tolist() == [[40.0, 26.0]]
    z, made = attend(q, k, k)
    assert made["scores"].tolist() == [[20.0, 13.0]]
    np.testing.assert_allclose(made["weights"], [[0.99908895, 0.00091105]], atol=2e-7)
    np.testing.assert_allclose(z, made["weights"] @ k, atol=5e-6)


def test_seed_10_only_chosen_query_rows():
    """What the process encoding the second word computes equals that row of the whole."""
    q, k, v = (vectors(2, 9, 8, seed=n) for n in range(3))
    problem = prepare(q, k, v, spec=AttentionSpec())
    whole = derive(problem, None, Selection(outputs=("weights", "entropy", "queries")))
    second = derive(problem, None, Selection(outputs=("weights", "entropy", "queries"), rows=(1,)))
    for name, tensor in second.items():
        np.testing.assert_allclose(tensor[:, 0], whole[name][:, 1], atol=1e-6)


def test_seed_11_scale_then_mask_then_softmax_then_values():
    q, k, v = vectors(4, 8), vectors(6, 8, seed=1), vectors(6, 8, seed=2)
    mask = vectors(4, 6, seed=3) > -0.5
    z, made = attend(q, k, v, mask=mask)
    scores = (q @ k.T / math.sqrt(8)).masked_fill(~mask, -math.inf)
    assert not made["weights"][~mask].any()  # exactly 0
    assert (made["scores"][~mask] == -math.inf).all()
    np.testing.assert_allclose(z, torch.softmax(scores, -1) @ v, atol=1e-5)


def test_seed_12_without_positions_permuting_tokens_permutes_z():
    x = vectors(6, 8)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    z, _ = attend(x, x, x)
    permuted, _ = attend(x[order], x[order], x[order])
    np.testing.assert_allclose(permuted, z[order], atol=1e-6)


def test_seed_14_the_value_matrix_rates_the_relevance_of_a_pair():
    """‖A_ij v_j‖, against a loop."""
    q, k, v = vectors(4, 8), vectors(5, 8, seed=1), vectors(5, 3, seed=2)
    _, made = attend(q, k, v)
    for i in range(4):
        for j in range(5):
            norm = math.sqrt(sum((float(made["weights"][i, j]) * float(x)) ** 2 for x in v[j]))
            assert float(made["value_norms"][i, j]) == pytest.approx(norm, rel=1e-5)


def test_seed_15_dot_cosine_and_scaled_dot_similarity():
    x = vectors(5, 8)
    lengths = x.norm(dim=-1)
    for spec, similarity in (
        (UNSCALED, x @ x.T),
        (AttentionSpec(), x @ x.T / math.sqrt(8)),
        (AttentionSpec(similarity="cosine"), x @ x.T / (lengths[:, None] * lengths)),
    ):
        _, made = attend(x, x, x, spec)
        np.testing.assert_allclose(made["scores"], similarity, atol=1e-5)


def test_seed_15_scaling_x_leaves_cosine_weights_unchanged():
    x = vectors(5, 8)
    cosine = AttentionSpec(similarity="cosine")
    _, made = attend(x, x, x, cosine)
    _, scaled = attend(100 * x, 100 * x, x, cosine)
    np.testing.assert_allclose(scaled["weights"], made["weights"], atol=1e-6)


def test_seed_16_softmax_rather_than_plain_normalisation():
    """Scores 1 and −1 sum to 0, so that dividing by the sum fails; the softmax is 0.8808, 0.1192."""
    q, k = torch.tensor([[1.0]]), torch.tensor([[1.0], [-1.0]])
    _, made = attend(q, k, k, UNSCALED)
    assert made["scores"].tolist() == [[1.0, -1.0]]
    np.testing.assert_allclose(made["weights"], [[0.8808, 0.1192]], atol=5e-5)
    np.testing.assert_allclose(made["weights"].sum(), 1.0, atol=1e-6)


def test_seed_17_words_pull_z_towards_their_neighbours_in_context():
    """The same "apple" between fruits and between brands gets two Z, each nearer to its neighbours."""
    fruit, brand = torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    apple = (fruit + brand) / 2
    among_fruits = torch.stack([apple, fruit, fruit])
    among_brands = torch.stack([apple, brand, brand])
    near_fruit = attend(among_fruits, among_fruits, among_fruits)[0][0]
    near_brand = attend(among_brands, among_brands, among_brands)[0][0]
    assert (near_fruit - fruit).norm() < (apple - fruit).norm() < (near_brand - fruit).norm()
    assert (near_brand - brand).norm() < (apple - brand).norm() < (near_fruit - brand).norm()


def test_seed_18_many_heads_at_once_equal_one_head_at_a_time():
    q, k, v = (vectors(4, 6, 8, seed=n) for n in range(3))
    w_o = vectors(12, 32, seed=3)
    z, _ = contextualize(prepare(q, k, v, spec=AttentionSpec()), want_lse=False)
    together = z.transpose(0, 1).reshape(6, 32) @ w_o.T
    each = torch.cat([attend(q[h], k[h], v[h])[0] for h in range(4)], dim=-1) @ w_o.T
    np.testing.assert_allclose(together, each, atol=1e-5)
