"""Benchmarks are run by hand, so that nothing else would say that one no longer fits what it measures."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import kernels, products, report, turns, workload
from benchmarks.balance import EVERY, KINDS, POLICIES, ROUND_ROBIN, Comparison, Latencies, mixture
from benchmarks.derived import without_bytes
from benchmarks.families import one_by_one, padded, sequences
from benchmarks.gpu import layer as gpu_layer
from benchmarks.gpu import shapes, varlen
from benchmarks.long import answering, layer, sequence
from benchmarks.peers.encoders import Encoder, verdicts
from benchmarks.precision import order_kept
from benchmarks.rules import RULES, Case, Rule, ways_of
from benchmarks.tables import PLACE, TABLES, encoder_promises, encoders, filled
from models.attention.ragged import choice
from models.compiled.native import native
from models.runtime import TorchRuntime
from tests.deploy.proxies import PROXIES

ROOT = Path(__file__).parent.parent
SERVERS = ROOT / "benchmarks/peers/servers"  # run in environments of their own
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "benchmarks").rglob("*.py")
    if SERVERS not in file.parents
)


@pytest.mark.parametrize("name", MODULES)
def test_benchmark_can_be_imported(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__


def test_order_is_kept_by_the_same_vectors_and_not_by_others() -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    same = order_kept(vectors * 3, vectors)  # of whatever length
    assert same["tau_least"] == pytest.approx(1)
    assert (same["nearest_least"], same["first_alike"]) == (1, 1)
    other = order_kept(vectors[::-1], vectors)
    assert abs(other["tau_mean"]) < 0.2
    assert other["nearest_mean"] < 0.5


def test_a_promise_is_kept_only_where_the_figures_keep_it() -> None:
    def encoder(who: str, dtype: str, rate: float, error: float = 0.0, size: int | None = None) -> Encoder:
        return Encoder(who, dtype, lambda _: rate, np.zeros(0), 0, "", size, [rate], error)

    found = [
        encoder("heed", "float32", 100, size=100),
        encoder("heed", "bfloat16", 180, error=1e-3, size=51),
        encoder("openvino", "bfloat16", 185),
    ]
    kept = {name: met for name, _, _, met in verdicts(found, 0)}
    assert kept == {
        "bfloat16 : heed float32": True,
        "bfloat16 : openvino bfloat16": True,
        "bfloat16, error": True,
        "bfloat16, weights": False,
    }
    assert {name: met for name, _, _, met in verdicts(found, 1)}["bfloat16 : openvino bfloat16"] is False


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    return layer()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_that_is_measured_is_the_same_to_torch(runtime: TorchRuntime, rule: Rule) -> None:
    assert len(ways_of(runtime, Case.of(rule, 40))) == 2 + rule.fused  # raises where one is off


def test_kernels_that_are_measured_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = native()
    if ours is None:
        pytest.skip("there is no compiled code for this processor")
    monkeypatch.setattr(turns, "SECONDS", 0.0)  # each is called a few times
    monkeypatch.setattr(products, "WEIGHTS", ((48, 32),))
    for module in (products, kernels):
        monkeypatch.setattr(module, "ROWS", (3,))
    monkeypatch.setattr(kernels, "LENGTHS", (5,))
    monkeypatch.setattr(kernels, "BLOCKS", ((128, 4),))
    with torch.inference_mode():
        made = products.products(ours, 1)
        assert [row["kind"] for row in made] == list(products.KINDS)
        assert len(kernels.attention(ours, 1)) == 2
        kernels.rest(1)


def test_long_sequences_are_asked_for_what_is_measured(runtime: TorchRuntime) -> None:
    x = sequence(24)
    alone = answering(runtime, x, ("z",))()
    assert np.array_equal(alone, answering(runtime, x, ("z", "top_k_keys"))())
    assert alone.shape == (24, 768)


def test_transformers_padded_and_one_by_one_are_the_same() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=1000, pad_token_id=1, **sizes)
    model = transformers.BertModel(config).eval()
    inputs = sequences(1, 9, 21)
    with torch.inference_mode():
        pairs = list(zip(one_by_one(model, inputs), padded(model, inputs), strict=True))
    assert [len(one) for one, _ in pairs] == [len(ids) for ids in inputs]
    for alone, together in pairs:
        assert torch.allclose(alone, together, atol=1e-5)


def test_weights_without_their_bytes_cost_what_the_engine_takes_for_them() -> None:
    # 2 ms of a request both slots are busy with, and 1 ms more on each for weights.
    assert without_bytes(500, {"z": 3e-3, "z + weights": 4e-3}, 2) == pytest.approx(400)
    assert without_bytes(500, {"z": 3e-3, "z + weights": 2e-3}, 2) == 500


def test_places_of_tables_are_filled_where_there_is_a_result(tmp_path: Path) -> None:
    rows = [{"dtype": "bfloat16", "connections": 32, "rate": 612.4, "ratio": 1.514, "limit": 1.5}]
    (tmp_path / "dtypes.json").write_text(json.dumps({"machine": {}, "result": {"rows": rows}}))
    page = (
        "before\n<!-- table dtypes -->\nold\n<!-- end -->\nbetween\n<!-- table long -->\nold\n<!-- end -->\n"
    )
    expected = (
        "before\n<!-- table dtypes -->\n| dtype | connections | requests a second | of float32's |\n"
        "|---|---|---|---|\n| `bfloat16` | 32 | 612 | 1.51 |\n<!-- end -->\n"
        "between\n<!-- table long -->\nold\n<!-- end -->\n"
    )
    assert filled(page, tmp_path) == expected
    assert filled(expected, tmp_path) == expected


def test_every_place_of_a_table_has_one_that_is_made() -> None:
    places = {
        place["name"] for page in (ROOT / "docs").rglob("*.md") for place in PLACE.finditer(page.read_text())
    }
    assert places == set(TABLES)


def test_a_table_of_encoders_has_each_once_with_what_was_measured() -> None:
    one = {
        "who": "heed",
        "dtype": "int8",
        "rate": 1234.6,
        "error": 4.5e-3,
        "how": "HTTP",
        "weights_bytes": 2**21,
    }
    promise = {"promise": "int8 : heed float32", "measured": 2.25, "limit": 2.2, "met": True}
    texts = {"words": [8, 16], "contestants": [one], "promises": [promise], "failures": []}
    result = {"sets": [texts, {**texts, "words": [8, 200], "contestants": []}]}
    assert encoders(result).splitlines()[-1] == (
        "| **Heed**, over HTTP, int8 | 1,235 | 4.5e-03 | HTTP |  |  |  | 2 MiB |"
    )
    assert encoder_promises(result).splitlines()[-1] == (
        "| 8 to 200 words | int8 over heed float32 | 2.25 | 2.2 | yes |"
    )


def test_every_proxy_has_a_policy_that_can_be_exchanged_for_round_robin() -> None:
    assert set(ROUND_ROBIN) == set(PROXIES)
    for name, (was, now) in ROUND_ROBIN.items():
        text = (ROOT / "deploy/proxy" / PROXIES[name][0]).read_text()
        assert text.count(was) == 1
        assert text.replace(was, now) != text


def test_one_request_in_twenty_is_long_and_none_knows_when() -> None:
    long = [number for number, request in enumerate(mixture()) if request.kind == "long"]
    assert len(long) == pytest.approx(2000 / EVERY, rel=0.2)
    assert len([number for number in long if number % 2]) == pytest.approx(len(long) / 2, rel=0.2)


def test_balance_is_better_where_p99_is_lower_and_nothing_failed() -> None:
    def comparison(fewest: float, errors: int = 0) -> Comparison:
        def found(ms: float) -> Latencies:
            return Latencies(p99_ms={kind: [ms, ms, 9000.0] for kind in KINDS}, errors=errors)

        return Comparison(100.0, dict(zip(POLICIES, (found(fewest), found(40.0)), strict=True)))

    assert comparison(30.0).ratio() == pytest.approx(0.75)
    assert comparison(30.0).better
    assert not comparison(41.0).better
    assert not comparison(30.0, errors=1).better


def as_written(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: varlen.Packed, *, causal: bool
) -> torch.Tensor:
    return choice.as_written(q, k, v, packed.lengths, scale=q.shape[2] ** -0.5, causal=causal)[0].to(q.dtype)


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.name)
def test_both_floors_of_a_whole_model_compute_the_same(shape: shapes.Shape) -> None:
    small = shape.smaller(64)
    bare = shapes.Bare(small, "cpu", torch.float32)
    x = torch.randn(3, 5, small.d_model, generator=torch.Generator().manual_seed(0))
    packed = varlen.Packed.of([5] * 3, "cpu")
    made = bare.packed(x.view(1, -1, small.d_model), packed, as_written).view_as(x)
    torch.testing.assert_close(made, bare(x), rtol=1e-4, atol=1e-4)


def test_both_floors_of_the_layer_compute_the_same() -> None:
    bare, inputs = gpu_layer.Bare("cpu", "float32"), workload.sequences(2, 9, count=4)
    x, mask = gpu_layer.padded(inputs, "cpu", "float32")
    made = bare.packed(
        torch.from_numpy(np.concatenate(inputs)),
        varlen.Packed.of([len(one) for one in inputs], "cpu"),
        as_written,
    )
    rows = torch.split(made, [len(one) for one in inputs])
    for one, whole in zip(rows, bare(x, mask), strict=True):
        torch.testing.assert_close(one, whole[: len(one)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("public", [True, False])
def test_the_second_floor_is_one_call_of_flash_attention_a_layer(
    public: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without numbers, which pass for a GPU's; with torch's public function and without."""
    if not public:
        monkeypatch.setattr(varlen, "varlen_attn", None)
    (shape,) = (one.smaller(64) for one in shapes.SHAPES if one.decoder)
    bare = shapes.Bare(shape, "cpu", torch.bfloat16)
    for matrices in (bare.qkv, bare.out, bare.up, bare.down):
        matrices[:] = [one.to("meta") for one in matrices]
    called: list[str] = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(function._schema.name)
            return function(*args, **(kwargs or {}))

    with Calls():
        made = bare.packed(
            torch.empty(1, 7, shape.d_model, dtype=torch.bfloat16, device="meta"),
            varlen.Packed.of([3, 4], "meta"),
        )
    assert made.shape == (1, 7, shape.d_model)
    kernel = "torch_attn::_varlen_attn" if public else "aten::_flash_attention_forward"
    assert called.count(kernel) == shape.layers
    assert not any("scaled_dot_product" in name for name in called)


def test_the_second_floor_is_told_what_its_version_knows() -> None:
    old, new = {"window_size", "scale"}, {"window_size", "scale", "enable_gqa", "num_splits"}
    assert varlen.said(old, causal=True, grouped=True) == {"window_size": (-1, 0)}
    assert varlen.said(new, causal=True, grouped=True) == {"window_size": (-1, 0), "enable_gqa": True}
    assert varlen.said(new, causal=False, grouped=False) == {}
    assert varlen.said({"is_causal"}, causal=True, grouped=False) == {"is_causal": True}


def test_without_a_gpu_there_is_no_second_floor() -> None:
    heads = {"heads": 4, "key_heads": 4, "width": 16}
    assert varlen.refusal("cpu", torch.bfloat16, **heads) == "FlashAttention is for GPUs"
    assert (
        varlen.refusal("cuda", torch.float32, **heads)
        == "FlashAttention is for halves, not for torch.float32"
    )
    found = gpu_layer.floors(
        gpu_layer.Bare("cpu", "bfloat16"), workload.sequences(2, 4, count=2), "cpu", "bfloat16", 1
    )
    assert found[0] > 0
    assert found[1] is None


def test_results_go_where_a_machine_gives_them_back_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    file = report.save("gpu", {"milliseconds": 1.5})
    assert file.parent == tmp_path / "out"
    assert json.loads(file.read_text())["result"] == {"milliseconds": 1.5}
    monkeypatch.delenv("OUT")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    assert report.save("gpu", {}).parent == tmp_path / "results"
