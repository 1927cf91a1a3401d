"""What is made of a model's rows: one vector of a sequence, and predictions of words; without torch.

Modes of pooling are those of sentence-transformers' Pooling, steps its modules that follow. In a Heed folder
it is the field `pooling` of `config.json`; in a Hugging Face folder `models/folders/sentence_files.py` reads
it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from models.config import shown
from models.errors import SpecError
from models.mechanism import ActivationName, positive, within

PoolingMode = Literal["mean", "cls", "max", "last", "mean_sqrt_len", "weighted_mean"]
# Of torch.nn, as they are without arguments: each number by itself.
POOLING_ACTIVATIONS = (
    "Identity",
    "Tanh",
    "ReLU",
    "GELU",
    "SiLU",
    "Sigmoid",
    "LeakyReLU",
    "ELU",
    "SELU",
    "CELU",
    "ReLU6",
    "Hardtanh",
    "Hardsigmoid",
    "Hardswish",
    "LogSigmoid",
    "Mish",
    "Softplus",
    "Softsign",
    "Tanhshrink",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledCard:
    """What a model's folder says of `pooled`, and of how whole texts are embedded.

    `dimensions`: the widths that a vector may be cut to where only some are allowed; `cut` whether it may
    be cut at all. `truncate_dim`: how many numbers are kept of an embedding when nobody asks.
    """

    width: int  # numbers in one vector
    pooling: str  # in a few words
    normalized: bool  # to length 1
    prompts: dict[str, str] = field(default_factory=dict)  # by name, put before a text
    default_prompt: str | None = None
    include_prompt: bool = True  # false: a prompt's tokens are left out of the pooling
    cut: bool = False
    dimensions: tuple[int, ...] = ()
    truncate_dim: int | None = None
    spans: bool = True  # whether some of a sequence's rows may be pooled by themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingStep:
    """What is done to a pooled vector: made of length 1, act(W·v + b) of `width` numbers, or a layer norm.

    `inputs` are the numbers W reads; `folder` is where the weights lie, below the model's.
    """

    kind: Literal["normalize", "dense", "layer_norm"]
    inputs: int | None = None
    width: int | None = None
    bias: bool = True
    activation: str = "Identity"
    residual: bool = False  # the input is added, by a linear without bias where widths differ
    folder: str = ""

    def __post_init__(self) -> None:
        within("pooling.steps.inputs", self.inputs, 1)
        within("pooling.steps.width", self.width, 1)
        if self.kind == "dense" and (self.inputs is None or self.width is None):
            raise SpecError("a dense step of pooling needs inputs and width")
        if self.kind == "layer_norm" and self.width is None:
            raise SpecError("a layer_norm step of pooling needs a width")
        if self.activation not in POOLING_ACTIVATIONS:
            raise SpecError(
                f"pooling's activation is {shown(self.activation)}; "
                f"choose one of {', '.join(POOLING_ACTIVATIONS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingSpec:
    """One vector from a sequence, as the model's own pooling configuration says.

    Several `modes` stand side by side; `steps` follow in order. `width`: numbers a token, where the
    configuration says so. Without `include_prompt` the tokens of a prompt are left out.
    """

    modes: tuple[PoolingMode, ...] = ("mean",)
    steps: tuple[PoolingStep, ...] = ()
    include_prompt: bool = True
    width: int | None = None

    def __post_init__(self) -> None:
        within("pooling.width", self.width, 1)
        if not self.modes:
            raise SpecError("pooling.modes is empty; give at least one")

    @property
    def of_spans(self) -> bool:
        """Whether some rows alone may be pooled: not where one row, the first or the last, stands for all."""
        return {"cls", "last"}.isdisjoint(self.modes)

    @property
    def normalized(self) -> bool:
        """Whether the vector has length 1."""
        return bool(self.steps) and self.steps[-1].kind == "normalize"

    def out_width(self, d_model: int) -> int:
        """Return how many numbers the vector has; raise SpecError where the widths do not fit each other."""
        if self.width not in (None, d_model):
            raise SpecError(f"its pooling is of {self.width} numbers a token, and the model has {d_model}")
        width = len(self.modes) * d_model
        for step in self.steps:
            reads = step.width if step.kind == "layer_norm" else step.inputs
            if reads not in (None, width):
                raise SpecError(f"{step.folder or step.kind} reads {reads} numbers, and is given {width}")
            width = step.width or width
        return width

    def told(self) -> str:
        """Return it in a few words, for people."""
        names = {"normalize": "normalised", "layer_norm": "layer norm"}
        words = (
            f"dense of {step.width}" if step.kind == "dense" else names[step.kind] for step in self.steps
        )
        return ", ".join((" and ".join(self.modes), *words))


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSpec:
    """How words are predicted of a row: what is done to it, then a table of one vector a word.

    `activation`: of a linear layer that comes first, followed by a layer norm (a masked-language head); None:
    there is neither. `bias`: one number a word. Scores are multiplied by `scale`, then capped: s·tanh(x/s).
    """

    activation: ActivationName | None = None
    dense_bias: bool = True
    norm_bias: bool = True
    eps: float = 1e-12
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None:
            positive("prediction.softcap", self.softcap)
        if not (0 <= self.eps < 1):
            raise SpecError(f"prediction.eps is {self.eps}; give a small number, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionCard:
    """What words a model predicts, of the rows of a block.

    `of`: a row speaks of the word after it (`next`), or of its own (`own`), where the model looks both ways.
    `tokens`: what predicting of one row takes, in tokens of the model's own pass.
    """

    words: int
    of: Literal["next", "own"]
    table: Literal["embedding", "own"]
    tokens: float


def todays_spelling(body: dict[str, Any]) -> dict[str, Any]:
    """Return a pooling in today's spelling: it was one `mode`, and `normalize`."""
    body = dict(body)
    if "mode" in body and "modes" not in body:
        body["modes"] = [body.pop("mode")]
    normalize = body.pop("normalize", False)
    if type(normalize) is not bool:
        raise SpecError(f"pooling.normalize is {shown(normalize)}; it must be of type bool")
    steps = body.get("steps", ())
    if not isinstance(steps, list | tuple):
        return body  # which is refused by its field, as every other
    if normalize:
        body["steps"] = steps = [*steps, {"kind": "normalize"}]
    for step in steps:
        if isinstance(step, dict) and step.get("kind") != "normalize":
            raise SpecError(
                "pooling.steps of a Heed folder may be normalize alone: others have weights of their own"
            )
    return body
