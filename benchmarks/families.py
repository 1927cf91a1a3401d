"""Families of Hugging Face by Heed over HTTP against transformers in process, on weights made by chance.

    python -m benchmarks.families [--quick] [--only bert qwen3 ...]

`hidden` of the last layer, float32, two threads, eight layers. Heed serves 8 connections of 4 sequences a
request, token ids in JSON and safetensors back. transformers runs the same sequences one by one, and padded
with a mask in batches of 16 sorted by length; the better of the two counts. They take turns, and the hidden
states of both are compared first. What Heed is promised to be times as fast is printed beside, and the status
is 1 where it is not.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load

from benchmarks.peers.running import post
from benchmarks.report import save
from benchmarks.serve import serving
from benchmarks.timed import each_once
from benchmarks.workload import Body

WORDS = 1000
FIRST_WORD = 10  # the ids before are special in one family or another
LAYERS = 8
LENGTHS = ((8, 128), (256, 512))
COUNTS = (64, 24)  # sequences of each
REPEATS = 2  # times that Heed is sent each in one round
CONNECTIONS, AT_ONCE, BATCH = 8, 4, 16
THREADS = 2
TOLERANCE = 1e-3  # of the largest number: sums of eight layers in another order
COMMON: dict[str, Any] = {
    "vocab_size": WORDS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "max_position_embeddings": 1024,
}
BASE = COMMON | {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
GROUPED = BASE | {"num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 2048}


@dataclass(frozen=True, slots=True)
class Family:
    """A `model_type`, its sizes, how transformers runs it right, and what Heed is to be times as fast."""

    config: dict[str, Any]
    attention: str  # transformers' fused kernel knows no softcap, and MPNet has none
    least: float


FAMILIES = {
    "bert": Family(BASE, "sdpa", 1.5),
    "qwen3": Family(
        COMMON
        | {
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
        },
        "sdpa",
        1.55,
    ),
    "llama": Family(GROUPED, "sdpa", 1.6),
    "gemma2": Family(GROUPED | {"query_pre_attn_scalar": 64, "sliding_window": 128}, "eager", 1.5),
    "mpnet": Family(BASE, "eager", 1.5),
    "modernbert": Family(
        BASE | {"intermediate_size": 1152, "cls_token_id": 0, "sep_token_id": 2}, "sdpa", 1.3
    ),
}


def save_model(name: str, folder: Path) -> Any:
    """Save a family's model with random weights, and return it as transformers runs it."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[name](**family.config)
    model = transformers.AutoModel.from_config(config, attn_implementation=family.attention).eval()
    model.save_pretrained(folder)
    model.config.use_cache = False  # nothing is generated
    return model


def sequences(shortest: int, longest: int, count: int) -> list[torch.Tensor]:
    """Return token ids [T] of `count` sequences, T uniform in shortest..longest."""
    chance = np.random.default_rng(1)
    lengths = chance.integers(shortest, longest + 1, size=count)
    return [torch.from_numpy(chance.integers(FIRST_WORD, WORDS, size=length)) for length in lengths]


def one_by_one(model: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return hidden [T, D] of each sequence alone."""
    return [model(input_ids=ids[None]).last_hidden_state[0] for ids in inputs]


def padded(model: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return hidden [T, D], in batches of like lengths padded on the right, in their order."""
    order = sorted(range(len(inputs)), key=lambda n: len(inputs[n]))
    found: dict[int, torch.Tensor] = {}
    for at in range(0, len(order), BATCH):
        group = order[at : at + BATCH]
        ids = torch.nn.utils.rnn.pad_sequence([inputs[n] for n in group], batch_first=True, padding_value=1)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(inputs[n]) for n in group])[:, None]
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found |= {n: hidden[row, : len(inputs[n])] for row, n in enumerate(group)}
    return [found[n] for n in range(len(inputs))]


def bodies(inputs: list[torch.Tensor]) -> list[Body]:
    """Return requests of four sequences each."""
    found = []
    for at in range(0, len(inputs), AT_ONCE):
        given = [{"token_ids": ids.tolist()} for ids in inputs[at : at + AT_ONCE]]
        content = json.dumps({"inputs": given, "outputs": ["hidden"]}).encode()
        found.append(Body("application/json", content, (("Accept", "application/x-safetensors"),)))
    return found


def far_away(url: str, path: str, model: Any, inputs: list[torch.Tensor]) -> float:
    """Return the largest difference of hidden states over their largest number, of the first request."""
    (body,) = bodies(inputs[:AT_ONCE])
    tensors = load(post(url + path, body.content_type, body.content, dict(body.headers)))
    away = 0.0
    for number, expected in enumerate(one_by_one(model, inputs[:AT_ONCE])):
        true = expected.numpy()
        away = max(away, float(np.abs(tensors[f"{number}.hidden"] - true).max() / np.abs(true).max()))
    return away


def per_second(run: Callable[[], object], count: int) -> float:
    """Return sequences a second of one pass."""
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def contest(url: str, name: str, model: Any, inputs: list[torch.Tensor], *, rounds: int) -> dict[str, Any]:
    """Return the rates of Heed and of transformers, in turns; of its two ways the better after one pass."""
    path = f"/v1/models/{name}/attend"
    away = far_away(url, path, model, inputs)
    if away > TOLERANCE:
        raise SystemExit(f"{name}: hidden states of Heed and transformers differ by {away:.1e}")
    requests = bodies(inputs) * REPEATS

    def heed() -> float:
        load = each_once(url, path, requests, connections=CONNECTIONS)
        if load.errors:
            raise SystemExit(f"{name}: {load.errors} requests were refused")
        return load.requests_per_second * AT_ONCE

    each_once(url, path, requests[: len(requests) // 2], connections=CONNECTIONS)  # warms
    one_by_one(model, inputs[:AT_ONCE])
    ways = {"one by one": one_by_one, "padded": padded}
    first = {how: per_second(lambda run=run: run(model, inputs), len(inputs)) for how, run in ways.items()}
    better = max(first, key=first.__getitem__)
    ours, theirs = [heed()], [first[better]]
    for _ in range(rounds - 1):
        theirs.append(per_second(lambda: ways[better](model, inputs), len(inputs)))
        ours.append(heed())
    pairs = zip(ours, theirs, strict=True)
    return {
        "heed": ours,
        "transformers": theirs,
        "first": first,
        "better": better,
        "away": away,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def measure(name: str, *, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Make, serve and measure one family; print and return a row for each range of lengths."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        repository = Path(folder)
        model = save_model(name, repository / name)
        with serving("--models", name, repository=repository) as (url, _):
            for lengths, count in zip(LENGTHS, COUNTS, strict=True):
                inputs = sequences(*lengths, count // (4 if quick else 1))
                found = contest(url, name, model, inputs, rounds=1 if quick else rounds)
                least = FAMILIES[name].least
                verdict = "met" if found["ratio"] >= least else "MISSED"
                ours, theirs = (statistics.median(found[who]) for who in ("heed", "transformers"))
                print(
                    f"{name:10} T {lengths[0]:3}..{lengths[1]:3}  Heed {ours:7.1f}  "
                    f"transformers {theirs:7.1f} ({found['better']})  "
                    f"{found['ratio']:5.2f}  limit {least}: {verdict}  off {found['away']:.0e}",
                    flush=True,
                )
                rows.append({"family": name, "lengths": lengths, "limit": least, **found})
    return rows


def main() -> int:
    """Measure what was asked for, keep the result; return 1 where a promise is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the sequences, one round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    transformers.utils.logging.disable_progress_bar()
    busy = os.getloadavg()[0]
    print(f"sequences a second; load average before: {busy:.2f}")
    rows = [row for name in chosen.only for row in measure(name, rounds=chosen.rounds, quick=chosen.quick)]
    save("families", {"load_average_before": busy, "rows": rows})
    return int(any(row["ratio"] < row["limit"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
