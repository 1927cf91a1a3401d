"""The command `heed train`: options to a plan, a progress bar, and a checkpoint when it is interrupted.

Not on the request line: what it writes is a model folder, which `heed serve` then serves.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.errors import ModelError
from models.training.plan import Plan

__all__ = ["train"]

DEFAULT = Plan()
INTERRUPTED = 130  # what a shell reports of a command ended by SIGINT

TextFile = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="UTF-8; blank lines part documents.")
]
Out = Annotated[Path, typer.Option(file_okay=False, help="The model folder to write.")]
Block = Annotated[
    Literal["bare", "transformer"],
    typer.Option(help="Attention alone, or with residuals, norms and a feed-forward network."),
]
Positions = Annotated[
    Literal["sinusoidal", "learned"], typer.Option(help="Learned ones end at the context's length.")
]
Context = Annotated[int, typer.Option(help="Tokens that a piece of text has at most.")]
Vocabulary = Annotated[int, typer.Option(help="Most words that have an id; rarer ones are [UNK].")]
Every = Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")]
Threads = Annotated[
    int, typer.Option(min=1, help="One is fastest for a small model; large ones gain by more.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint in the folder, if there is one.")
]


def train(
    text_file: TextFile,
    *,
    out: Out,
    steps: Annotated[int, typer.Option(help="Batches to learn from.")] = DEFAULT.steps,
    layers: Annotated[int, typer.Option(help="Layers of attention.")] = DEFAULT.layers,
    heads: Annotated[int, typer.Option(help="Heads a layer.")] = DEFAULT.heads,
    d_model: Annotated[int, typer.Option(help="Numbers a token.")] = DEFAULT.d_model,
    context: Context = DEFAULT.context,
    block: Block = DEFAULT.block,
    positions: Positions = DEFAULT.positions,
    vocabulary: Vocabulary = DEFAULT.vocabulary,
    batch: Annotated[int, typer.Option(help="Pieces a step.")] = DEFAULT.batch,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = DEFAULT.learning_rate,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = DEFAULT.seed,
    checkpoint_every: Every = 200,
    threads: Threads = 1,
    resume: Resume = False,
) -> None:
    """Learn Q, K and V by next-token prediction over a text, and write a model folder to serve.

    Ctrl-C writes a checkpoint and stops; the same command with --resume goes on from it.
    """
    screen = Console(stderr=True)
    try:
        plan = Plan(
            steps=steps,
            layers=layers,
            heads=heads,
            d_model=d_model,
            context=context,
            block=block,
            positions=positions,
            vocabulary=vocabulary,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
        )
        text = text_file.read_text(encoding="utf-8")
        how = {"checkpoint_every": checkpoint_every, "threads": threads, "resume": resume}
        finished = _learn(text, out, plan, screen, **how)
    except (ModelError, UnicodeDecodeError, OSError) as error:
        screen.print(f"heed train: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
    if not finished:
        raise typer.Exit(INTERRUPTED)


def _learn(text: str, out: Path, plan: Plan, screen: Console, **how: Any) -> bool:
    """Train under a progress bar and say how it ended; return whether it ran to its end."""
    from models.training import (
        train as training,
    )  # torch takes seconds to import, and --help needs none of it

    columns = (
        TextColumn("loss {task.fields[loss]:.3f}  held-out {task.fields[held_out]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=screen)
    task = bar.add_task("train", total=plan.steps, loss=0.0, held_out="–")

    def show(at: training.Progress) -> None:
        bar.start()
        held_out = "–" if at.held_out is None else f"{at.held_out:.3f} (unigram {at.unigram:.3f})"
        bar.update(task, completed=at.step, loss=at.loss, held_out=held_out)

    with _interruptible() as stop:
        try:
            report = training.train(text, out, plan=plan, on_step=show, stop=stop, **how)
        finally:
            bar.stop()
    if not report.finished:
        screen.print(f"Stopped after {len(report.losses)} steps; the same command with --resume goes on.")
        return False
    last = report.held_out[plan.steps]
    gain = report.better_than_unigram
    against = f"{abs(gain):.0%} {'better' if gain >= 0 else 'worse'} than unigram's {report.unigram:.3f}"
    screen.print(f"{out}: held-out cross-entropy {last:.3f} nats a token, {against}.", markup=False)
    return True


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; a second one acts as if nothing were here."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
