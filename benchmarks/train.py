"""Learns `demo-attention` anew and prints how far it comes, how fast, and what it has learned.

python -m benchmarks.train
"""

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from models.training import grammar, language
from models.training.plan import Plan
from models.training.train import Progress, Report, train

PARAGRAPHS = 20000


def main() -> None:
    """Train twice, the second time interrupted half-way and resumed; print the table."""
    plan, text = Plan(), grammar.write(PARAGRAPHS)
    with tempfile.TemporaryDirectory() as scratch:
        whole, halved = Path(scratch, "whole"), Path(scratch, "halved")
        begin = time.perf_counter()
        report = train(text, whole, plan=plan)
        seconds = time.perf_counter() - begin
        done: list[Progress] = []
        train(text, halved, plan=plan, on_step=done.append, stop=lambda: len(done) == plan.steps // 2)
        resumed = train(text, halved, plan=plan, resume=True)
        print_table(report, resumed, seconds, plan)
        print_contrasts(whole, plan)


def print_table(report: Report, resumed: Report, seconds: float, plan: Plan) -> None:
    """Print losses against the unigram's, the time, and how far the resumed curve is from the whole one."""
    apart = max(abs(a - b) for a, b in zip(report.losses, resumed.losses, strict=True))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"heed train: {PARAGRAPHS} paragraphs, {plan.steps} steps, {cores} cores, torch {torch.__version__}"
    )
    print(f"  unigram, held-out        {report.unigram:8.4f} nats a token")
    for step, loss in report.held_out.items():
        print(f"  held-out at step {step:<6}  {loss:8.4f}  {1 - loss / report.unigram:6.1%} better")
    print(f"  seconds                  {seconds:8.1f}")
    print(f"  resumed against whole    {apart:8.1e} largest difference of the loss curve")


def print_contrasts(folder: Path, plan: Plan) -> None:
    """Print, of each kind of contrast, how often the model prefers the word that the grammar allows."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    spec = plan.spec(tokenizer.get_vocab_size())
    parameters = load_file(folder / "model.safetensors")
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for one in grammar.contrasts():
        ids = torch.tensor([tokenizer.encode(one.prompt).ids])
        logits = language.logits(spec, parameters, ids)[0, -1]
        margin = logits[tokenizer.token_to_id(one.right)] - logits[tokenizer.token_to_id(one.wrong)]
        right[one.kind].append(margin.item() > 0)
    for kind, found in right.items():
        print(f"  {kind:<12} {sum(found):5} of {len(found)} contrasts right")


if __name__ == "__main__":
    main()
