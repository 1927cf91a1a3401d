"""Heads, positions and edits as they are typed on the command line, read into what the client takes.

heads      5.1,5.5 pairs of layer and head; 5.*,6.* whole layers; * all of them; else the name of a set
positions  3,-1,4:7,name: numbers, half-open ranges, names of spans; outside:4:7 all others
edits      VERB HEADS [VALUE] [queries=POSITIONS] [keys=POSITIONS]
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heed_client import Edit

PATTERNS = ("previous", "self", "first", "uniform")
VERBS = {  # what follows the heads
    "scale": "scale 5.1 0",
    "block": "block 5.* queries=-1 keys=0:3",
    "add": "add 3.7,8.2 -4.6 keys=outside:4:7",
    "pattern": "pattern 5.1 previous",
}
_PAIR, _LAYER = re.compile(r"(-?\d+)\.(\d+)"), re.compile(r"(-?\d+)\.\*")


def read_heads(text: str) -> dict[str, Any]:
    """Return `heads` or `layers` of what is typed; ValueError says what may be."""
    parts = [part.strip() for part in text.split(",")]
    pairs, layers = ([kind.fullmatch(part) for part in parts] for kind in (_PAIR, _LAYER))
    if all(pairs):
        return {"heads": [(int(pair[1]), int(pair[2])) for pair in pairs if pair]}
    if all(layers):
        return {"layers": [int(layer[1]) for layer in layers if layer]}
    if text in ("*", "*.*"):
        return {"layers": "all"}
    if len(parts) == 1 and not re.match(r"[-\d.*]", text):
        return {"heads": text}
    raise ValueError(
        f"heads are {text!r}; give pairs of layer and head (5.1,5.5), whole layers (5.*), * for all, or the "
        "name of a set of the model's"
    )


def read_places(text: str) -> Any:
    """Return positions as the client takes them."""
    if text.startswith("outside:"):
        return {"outside": read_places(text.removeprefix("outside:"))}
    return [_place(part.strip()) for part in text.split(",")]


def _place(text: str) -> int | str | tuple[int, int]:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if ends := re.fullmatch(r"(\d+):(\d+)", text):
        return int(ends[1]), int(ends[2])
    if text and not re.match(r"[-\d:]", text):
        return text
    raise ValueError(f"a position is {text!r}; give a number, a range 4:7 or the name of a span")


def read_edit(text: str) -> "Edit":
    """Return one edit; ValueError shows how its verb is written."""
    from heed_client import Edit

    verb, *rest = text.split()
    if verb not in VERBS:
        raise ValueError(f"the edit {text!r} begins with none of {', '.join(VERBS)}: e.g. {VERBS['scale']!r}")
    places = dict(word.split("=", 1) for word in rest if "=" in word)
    plain = [word for word in rest if "=" not in word]
    values = 0 if verb == "block" else 1
    if len(plain) != 1 + values or not set(places) <= {"queries", "keys"}:
        raise ValueError(f"the edit {text!r} is not written as {VERBS[verb]!r} is")
    where = {**read_heads(plain[0]), **{name: read_places(said) for name, said in places.items()}}
    if verb == "block":
        return Edit.block(**where)
    if verb == "pattern":
        if plain[1] not in PATTERNS:
            raise ValueError(f"the pattern is {plain[1]!r}; choose one of {', '.join(PATTERNS)}")
        return Edit.pattern(plain[1], **where)
    try:
        value = float(plain[1])
    except ValueError:
        raise ValueError(f"the value of {text!r} is {plain[1]!r}; give a number") from None
    return Edit.scale(value, **where) if verb == "scale" else Edit.add(value, **where)


def read_spans(text: str) -> Any:
    """Return "words", or ranges of tokens, of what is typed."""
    if text == "words":
        return text
    found = read_places(text)
    if isinstance(found, list) and all(isinstance(one, tuple) for one in found):
        return found
    raise ValueError(f"spans are {text!r}; give words, or ranges of tokens: 0:3,3:5")


def read_layer(text: str) -> Any:
    """Return a layer's number, or "all"."""
    if text == "all" or re.fullmatch(r"-?\d+", text):
        return text if text == "all" else int(text)
    raise ValueError(f"the layer is {text!r}; give a number, negative from the end, or all")
