"""What a model runs before it serves: each layer once; on a GPU some lengths; for int8, texts.

Texts show how large inputs are.

Few are enough: which inputs are large is the model's habit, and hardly depends on what it reads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.device.gpu import Gpu
from models.encoder.stack import Stack
from models.errors import ModelError, OutOfMemory, SpecError, of_batch
from models.outputs import Selection
from models.protocol import Answers, Failure, Item, ModelCard, Tokens
from models.text.tokenizer import Tokenizer

MOST_TOKENS = 48  # of a text
PROBE_TOKENS = 3
WARM_TOKENS = (1, 64, 2048)
RANDOM_TEXTS = 16  # of a model without a tokenizer
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "How do I change the password of my account? I have tried to sign in three times today.",
    "A man in a red shirt is playing the guitar on a small stage while people dance.",
    "Berlin is the capital and the largest city of Germany, with 3.7 million inhabitants.",
    "Shares fell sharply on Monday after the central bank raised its rate by half a point.",
    "def area(width, height): return width * height  # square metres",
    "The patient was given 20 mg of the drug twice a day and discharged on the fifth day.",
    "Hello!",
    "Best pizza in town, but the service was slow and the music far too loud.",
    "In 1905 Einstein published four papers, among them one on the photoelectric effect.",
    "Water boils at 100 °C at sea level; on a mountain it boils at less.",
    "WARNING: do not open the cover while the machine is running.",
    "La bibliothèque est ouverte du lundi au samedi, de neuf heures à dix-huit heures.",
    "Die Züge nach München fahren heute wegen einer Baustelle nur einmal in der Stunde.",
    "El contrato se renueva cada año, salvo que una de las partes lo rescinda por escrito.",
    "今日は朝から雨が降っていて、電車が遅れています。",
    "SELECT name, price FROM products WHERE price < 10 ORDER BY name;",
    "She asked whether the parcel, which had been sent on 12 March, had ever arrived.",
    "Neural networks are trained by following the gradient of a loss function downhill.",
    "Yes. No. Maybe tomorrow, if the weather is good enough for a walk along the river.",
)


def calibration(card: ModelCard, tokenizer: Tokenizer | None) -> list[Item]:
    """Return texts for a model to run whole, or random tokens where it reads no texts.

    None where it has no tokens: of the rows that callers bring nothing is known.
    """
    if not card.vocabulary:
        return []
    most = min(MOST_TOKENS, card.max_tokens or MOST_TOKENS)
    read = [] if tokenizer is None else [_ids(tokenizer, text) for text in TEXTS]
    every = [ids for ids in read if ids is not None]
    if not every:
        chance = np.random.default_rng(0)
        every = [chance.integers(0, card.vocabulary, most) for _ in range(RANDOM_TEXTS)]
    name = "hidden" if "hidden" in card.outputs else "z"
    selection = Selection(outputs=(name,), layers=(card.layers - 1,))
    return [Item(card=card, input=Tokens(ids=ids[:most]), selection=selection) for ids in every]


def _ids(tokenizer: Tokenizer, text: str) -> NDArray[np.int64] | None:
    """Return the tokens of a text, None where the model has no words for it."""
    try:
        return tokenizer.encode(text).ids
    except ModelError:
        return None


def make_ready(card: ModelCard, model: Any, gpu: Gpu, *, graphs: bool) -> None:
    """Load what a model uses of a GPU before it serves there; `graphs`: record the blocks of a Stack."""
    gpu.warm(partial(warm_up, card, model.run))
    if graphs and isinstance(model, Stack):
        model.record(gpu, card)


def warm_up(card: ModelCard, run: Callable[[Sequence[Item]], Answers]) -> None:
    """Run a token, a sentence, a long text, and weights of a sentence: a GPU loads a kernel on its first use.

    What the device has no memory for is left out.
    """
    chance = np.random.default_rng(0)
    plain = "z" if "z" in card.outputs else "weights"
    sizes = [(min(length, card.max_tokens or length), (plain,)) for length in WARM_TOKENS]
    for length, outputs in dict.fromkeys([*sizes, (sizes[1][0], ("weights",))]):
        given = _random(card, length, chance)
        chosen = Selection(outputs=outputs, layers=(card.layers - 1,))
        try:
            run([Item(card=card, input=given, selection=chosen)])
        except RuntimeError as error:
            if not isinstance(of_batch(error), OutOfMemory):
                raise


def try_layers(card: ModelCard, run: Callable[[Sequence[Item]], Answers]) -> None:
    """Run every layer once: it warms the kernels, and a model that gives no numbers is refused."""
    given = _random(card, min(PROBE_TOKENS, card.max_tokens or PROBE_TOKENS), np.random.default_rng(0))
    names = tuple(name for name in ("z", "weights") if name in card.outputs)
    chosen = Selection(outputs=names, layers=tuple(range(card.layers)), layer_axis=True)
    (answer,) = run([Item(card=card, input=given, selection=chosen)])
    if isinstance(answer, Failure):
        raise SpecError(f"the weights of {card.name} give numbers that are not finite")


def _random(card: ModelCard, tokens: int, chance: np.random.Generator) -> Tokens:
    """Return random rows, or random tokens where a model takes no rows."""

    def numbers(length: int, width: int) -> NDArray[np.float32]:
        return chance.standard_normal((length, width), dtype=np.float32)

    memory = numbers(PROBE_TOKENS, card.d_model) if card.part else None
    if "embeddings" in card.inputs:
        return Tokens(embeddings=numbers(tokens, card.width), memory=memory)
    return Tokens(ids=chance.integers(0, card.vocabulary or 1, tokens), memory=memory)
