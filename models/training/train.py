"""Learning Q, K and V by backpropagation on next-token prediction over a text.

What comes out is a model folder that the server serves as it is: `config.json`, `model.safetensors`,
`tokenizer.json`, beside `loss.csv` and `training.json`, which say how it was learned. A run that was
interrupted goes on from its checkpoint and ends with the same numbers as one that was not.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import SpecError
from models.folders.families import PREDICTIONS
from models.training import checkpoint, corpus, language
from models.training.corpus import Corpus
from models.training.plan import Plan

CHECKPOINT = "checkpoint.safetensors"
BETAS = (0.9, 0.98)
LARGEST_GRADIENT = 1.0  # norm over all parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training stands after a step; losses are cross-entropies in nats a token."""

    step: int  # steps done
    loss: float
    held_out: float | None  # the latest measured
    unigram: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a run ended: the curve of the training loss, and the held-out loss by steps done."""

    finished: bool
    losses: tuple[float, ...]
    held_out: dict[int, float]
    unigram: float

    @property
    def better_than_unigram(self) -> float:
        """Return the share of the unigram's held-out cross-entropy that the model has done away with."""
        return 1 - self.held_out[max(self.held_out)] / self.unigram if self.held_out else 0.0


def train(
    text: str,
    folder: Path,
    *,
    plan: Plan,
    checkpoint_every: int = 200,
    resume: bool = False,
    threads: int = 1,
    on_step: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Learn from `text` and write a model folder; with `resume`, go on from the checkpoint there, if any.

    One thread learns a small model fastest, and the same numbers on any number of cores; large ones gain
    by more `threads`. When `stop` returns True after a step, a checkpoint is written and the report says
    unfinished. Raises SpecError for a folder in use, a checkpoint of another run or damaged, a text too
    short, a loss that is no longer finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and (used := [name for name in (CHECKPOINT, "config.json") if (folder / name).exists()]):
        raise SpecError(f"{folder} already has {used[0]}; resume that run, or give another folder")
    with _threads(threads):
        run = _Run(corpus.read(text, context=plan.context, vocabulary=plan.vocabulary, seed=plan.seed), plan)
        if resume and (folder / CHECKPOINT).exists():
            run.restore(folder / CHECKPOINT)
        while run.step < plan.steps:
            on_step(run.advance())
            stopped = stop() and run.step < plan.steps
            if stopped or run.step % checkpoint_every == 0 or run.step == plan.steps:
                run.save(folder / CHECKPOINT)
            if stopped:
                return run.report()
        run.export(folder)
        return run.report()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads inside, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """The state of training: parameters, the optimizer's moments, the curves."""

    def __init__(self, text: Corpus, plan: Plan) -> None:
        self._text, self._plan = text, plan
        self._spec = plan.spec(text.vocabulary)
        self._parameters = language.initial(self._spec, seed=plan.seed)
        # A word never seen says nothing but where it stands.
        self._parameters["embedding.tokens.weight"][corpus.UNKNOWN_ID] = 0
        for parameter in self._parameters.values():
            parameter.requires_grad_()
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=plan.learning_rate, betas=BETAS, weight_decay=plan.weight_decay
        )
        self._unigram = text.unigram()
        self._losses: list[float] = []
        self._held_out: dict[int, float] = {}

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self._losses)

    def advance(self) -> Progress:
        """Take one step."""
        plan, step = self._plan, self.step
        for group in self._optimizer.param_groups:
            group["lr"] = plan.rate(step)
        count = len(self._text.training)
        chosen = corpus.drawn(step, count=count, size=plan.batch, seed=plan.seed)
        loss = self._loss([self._text.training[index] for index in chosen], reduction="mean")
        if not math.isfinite(loss.item()):
            raise SpecError(f"the loss is not finite after {step} steps; give a smaller learning rate")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), LARGEST_GRADIENT)
        self._optimizer.step()
        self._losses.append(loss.item())
        if self.step % plan.evaluate_every == 0 or self.step == plan.steps:
            self._held_out[self.step] = self._measure()
        latest = self._held_out[max(self._held_out)] if self._held_out else None
        return Progress(step=self.step, loss=loss.item(), held_out=latest, unigram=self._unigram)

    def report(self) -> Report:
        """Return the curves so far."""
        return Report(
            finished=self.step == self._plan.steps,
            losses=tuple(self._losses),
            held_out=dict(self._held_out),
            unigram=self._unigram,
        )

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        tensors: dict[str, Tensor] = {"losses": torch.tensor(self._losses, dtype=torch.float64)}
        moments = self._optimizer.state_dict()["state"]
        for index, (name, parameter) in enumerate(self._parameters.items()):
            tensors[f"parameters.{name}"] = parameter
            tensors |= {f"optimizer.{name}.{kind}": value for kind, value in moments[index].items()}
        state = {
            "plan": asdict(self._plan),
            "text_sha256": self._text.sha256,
            "held_out": list(self._held_out.items()),
        }
        checkpoint.save(path, tensors, state)

    def restore(self, path: Path) -> None:
        """Take up what `save` wrote; raise SpecError when it is of another plan or text."""
        tensors, state = checkpoint.load(path)
        self._check_same_run(state)
        moments: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for index, (name, parameter) in enumerate(self._parameters.items()):
                parameter.copy_(tensors[f"parameters.{name}"])
                prefix = f"optimizer.{name}."
                moments[index] = {
                    kind.removeprefix(prefix): value
                    for kind, value in tensors.items()
                    if kind.startswith(prefix)
                }
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self._losses = tensors["losses"].tolist()
        self._held_out = dict(state["held_out"])

    def export(self, folder: Path) -> None:
        """Write the model folder; `config.json`, which makes it one, last."""
        checkpoint.replace_tensors(folder / "model.safetensors", self._parameters, {"format": "pt"})
        checkpoint.replace_text(folder / "tokenizer.json", self._text.tokenizer.to_str(pretty=True) + "\n")
        checkpoint.replace_text(folder / "loss.csv", self._curve())
        checkpoint.replace_text(folder / "training.json", json.dumps(self._summary(), indent=2) + "\n")
        config = json.dumps({**self._spec.to_config(), PREDICTIONS: True}, indent=2)
        checkpoint.replace_text(folder / "config.json", config + "\n")

    def _loss(self, pieces: list[corpus.Ids], *, reduction: Literal["mean", "sum"]) -> Tensor:
        inputs, targets = (torch.from_numpy(ids) for ids in corpus.batch(pieces))
        predicted = language.logits(self._spec, self._parameters, inputs)
        return F.cross_entropy(
            predicted.flatten(0, 1), targets.flatten(), ignore_index=corpus.NO_TARGET, reduction=reduction
        )

    def _measure(self) -> float:
        """Return the held-out cross-entropy, in nats a token."""
        pieces, size = self._text.held_out, self._plan.batch
        with torch.inference_mode():
            total = sum(
                self._loss(pieces[at : at + size], reduction="sum").item()
                for at in range(0, len(pieces), size)
            )
        return total / sum(len(piece) - 1 for piece in pieces)

    def _check_same_run(self, state: dict[str, Any]) -> None:
        for name, value in asdict(self._plan).items():
            if (was := state["plan"].get(name)) != value:
                raise SpecError(
                    f"the checkpoint was made with {name} {was}, not {value}; give the same to resume"
                )
        if state["text_sha256"] != self._text.sha256:
            raise SpecError("the checkpoint was made from another text; give the same file to resume")

    def _curve(self) -> str:
        """Return the loss curve as CSV: step, training loss, held-out loss where measured, unigram."""
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("step", "loss", "held_out", "unigram"))
        for step, loss in enumerate(self._losses, start=1):
            rows.writerow((step, loss, self._held_out.get(step, ""), self._unigram))
        return table.getvalue()

    def _summary(self) -> dict[str, Any]:
        report = self.report()
        return {
            "plan": asdict(self._plan),
            "text_sha256": self._text.sha256,
            "training_pieces": len(self._text.training),
            "held_out_pieces": len(self._text.held_out),
            "unigram": report.unigram,
            "held_out": report.held_out[self.step],
            "better_than_unigram": report.better_than_unigram,
        }
