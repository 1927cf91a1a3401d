"""A small generative grammar of English: the text that `demo-attention` learned from.

Every paragraph holds one thing that only attention to the right earlier word can predict: a verb agrees
with its subject across a phrase in between, a pronoun with the name it refers to, words keep their order,
and *bank* and *apple* take the sense that the words before them decide. No text is copied from anywhere.

    python -m models.training.grammar 20000 > grammar.txt
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

Kind = Literal["agreement", "reference", "order", "sense"]
Word = TypeVar("Word")

# A pair is (singular, plural); a number, 0 or 1, picks from it.
ANIMALS = (("dog", "dogs"), ("horse", "horses"), ("bird", "birds"), ("cat", "cats"))
PEOPLE = (("child", "children"), ("farmer", "farmers"), ("teacher", "teachers"), ("sailor", "sailors"))
THINGS = (("key", "keys"), ("letter", "letters"), ("box", "boxes"), ("hat", "hats"), ("lamp", "lamps"))
LANDMARKS = (("house", "houses"), ("tree", "trees"), ("table", "tables"), ("boat", "boats"))
ACTS = (("sleeps", "sleep"), ("sings", "sing"), ("waits", "wait"), ("runs", "run"))
SEES = (("sees", "see"), ("likes", "like"), ("follows", "follow"))
IS = (("is", "are"), ("was", "were"))
DOES = ("does", "do")
IT = ("it", "them")

SIZES, AGES, COLOURS = ("big", "small"), ("old", "new"), ("red", "blue", "white")
STATES = ("clean", "broken", "heavy", "lost")
BETWEEN = ("near", "behind", "beside", "under")
HOW = ("quietly", "often", "today")
WHERE = ("where", "when", "why")
ROOMS = ("garden", "kitchen", "village", "barn")


@dataclass(frozen=True, slots=True)
class Gender:
    """The names of one gender, and the pronouns that refer to them."""

    names: tuple[str, ...]
    subject: str
    object: str
    possessive: str
    reflexive: str


WOMAN = Gender(("Mary", "Anna", "Lucy", "Emma"), "she", "her", "her", "herself")
MAN = Gender(("Tom", "Peter", "John", "David"), "he", "him", "his", "himself")


@dataclass(frozen=True, slots=True)
class Sense:
    """One sense of a word: what is met before it, and what follows it in this sense only."""

    before: tuple[str, ...]
    qualities: tuple[str, ...]
    after: tuple[str, ...]


BANK = (
    Sense(("river", "boat", "fish"), ("wet", "green", "soft"), ("grass", "mud", "sand")),
    Sense(("office", "money", "shop"), ("large", "cheap", "safe"), ("loan", "cheque", "account")),
)
APPLE = (
    Sense(("tree", "orchard", "market"), ("sweet", "ripe", "sour"), ("pie", "juice", "cake")),
    Sense(("office", "screen", "desk"), ("fast", "bright", "smart"), ("phone", "laptop", "tablet")),
)


@dataclass(frozen=True, slots=True)
class Story:
    """One paragraph, and what there is to learn from it."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """A beginning, a word that may come next, and one that may not."""

    kind: Kind
    prompt: str
    right: str
    wrong: str


def stories(count: int, *, seed: int = 0) -> Iterator[Story]:
    """Yield `count` paragraphs, the kinds in turn; the same seed gives the same text anywhere."""
    chance = random.Random(seed)
    kinds: tuple[tuple[Kind, Callable[[random.Random], str]], ...] = (
        ("agreement", _agreement),
        ("reference", _reference),
        ("order", _order),
        ("sense", _sense),
    )
    for index in range(count):
        kind, tell = kinds[index % len(kinds)]
        yield Story(kind, tell(chance))


def write(count: int, *, seed: int = 0) -> str:
    """Return `count` paragraphs as one text, a blank line between them."""
    return "\n\n".join(story.text for story in stories(count, seed=seed)) + "\n"


def contrasts() -> Iterator[Contrast]:
    """Yield every beginning of a few forms that leaves one choice, to ask a model what it has learned."""
    for subject, other, between in product((0, 1), (0, 1), BETWEEN):
        for thing, landmark, verb in product(THINGS, LANDMARKS, IS):
            prompt = f"The {thing[subject]} {between} the {landmark[other]}"
            yield Contrast("agreement", prompt, verb[subject], verb[1 - subject])
    for who, whom in ((WOMAN, MAN), (MAN, WOMAN)):
        for name, met in product(who.names, whom.names):
            prompt = f"{name} met {met}. {who.subject.capitalize()} told {whom.object} about"
            yield Contrast("reference", prompt, who.reflexive, whom.reflexive)
    for noun, word, age, verb in product(ANIMALS + PEOPLE, WHERE, AGES, ACTS):
        yield Contrast("order", f"{word.capitalize()} {DOES[0]} the {age} {noun[0]}", verb[1], verb[0])
    for noun, size, age, colour in product(ANIMALS + PEOPLE, SIZES, AGES, COLOURS):
        yield Contrast("order", f"The {noun[1]} {SEES[0][1]} a {size}", age, colour)
    for who, way in product((WOMAN, MAN), ((0, 1), (1, 0))):
        for name, at in product(who.names, range(3)):
            sense, not_sense = BANK[way[0]], BANK[way[1]]
            prompt = f"{name} left the {sense.before[at]} for the bank. {who.subject.capitalize()} saw the"
            yield Contrast("sense", prompt, sense.qualities[at], not_sense.qualities[at])
            sense, not_sense = APPLE[way[0]], APPLE[way[1]]
            prompt = f"By the {sense.before[at]} {name} got an apple"
            yield Contrast("sense", prompt, sense.after[at], not_sense.after[at])


def _one(chance: random.Random, options: Sequence[Word]) -> Word:
    """Draw one option by `random()` alone, the one stream that Python promises to keep."""
    return options[int(chance.random() * len(options))]


def _agreement(chance: random.Random) -> str:
    """Tell of a subject and a verb of one number, with a noun of any number in between."""
    subject, other = _one(chance, (0, 1)), _one(chance, (0, 1))
    animate = _one(chance, (True, False))
    noun = _one(chance, ANIMALS + PEOPLE if animate else THINGS)[subject]
    if animate and _one(chance, (True, False)):
        between = f"that the {_one(chance, PEOPLE)[other]} {_one(chance, SEES)[other]}"
    else:
        between = f"{_one(chance, BETWEEN)} the {_one(chance, LANDMARKS)[other]}"
    if animate:
        verb = f"{_one(chance, ACTS)[subject]} {_one(chance, HOW)}"
    else:
        verb = f"{_one(chance, IS)[subject]} {_one(chance, STATES)}"
    quality = f"{_one(chance, AGES)} " if _one(chance, (True, False)) else ""
    return f"The {quality}{noun} {between} {verb}."


def _reference(chance: random.Random) -> str:
    """Tell of somebody, then of the same person and thing by pronouns."""
    who = _one(chance, (WOMAN, MAN))
    name, they = _one(chance, who.names), who.subject.capitalize()
    if _one(chance, (True, False)):
        number = _one(chance, (0, 1))
        thing, room = _one(chance, THINGS)[number], _one(chance, ROOMS)
        return f"{name} lost {who.possessive} {thing}. {they} found {IT[number]} in the {room}."
    other = _one(chance, (WOMAN, MAN))
    met = _one(chance, tuple(met for met in other.names if met != name))
    return f"{name} met {met}. {they} told {other.object} about {who.reflexive}."


def _order(chance: random.Random) -> str:
    """Tell of adjectives in the order size, age, colour, or ask with the verb before its subject."""
    number = _one(chance, (0, 1))
    noun = _one(chance, ANIMALS + PEOPLE)[number]
    if _one(chance, (True, False)):
        ask = f"{_one(chance, WHERE).capitalize()} {DOES[number]}"
        return f"{ask} the {_one(chance, AGES)} {noun} {_one(chance, ACTS)[1]}?"
    qualities = f"{_one(chance, SIZES)} {_one(chance, AGES)} {_one(chance, COLOURS)}"
    return f"The {noun} {_one(chance, SEES)[number]} a {qualities} {_one(chance, LANDMARKS)[0]}."


def _sense(chance: random.Random) -> str:
    """Tell of a bank or an apple whose sense only the words before it decide."""
    who = _one(chance, (WOMAN, MAN))
    name, they = _one(chance, who.names), who.subject.capitalize()
    if _one(chance, (True, False)):
        sense = _one(chance, BANK)
        way = f"{name} left the {_one(chance, sense.before)} for the bank"
        return f"{way}. {they} saw the {_one(chance, sense.qualities)} {_one(chance, sense.after)}."
    sense = _one(chance, APPLE)
    first = f"By the {_one(chance, sense.before)} {name} got an apple {_one(chance, sense.after)}"
    return f"{first}. It was {_one(chance, sense.qualities)}."


def main() -> None:
    """Write the text to standard output."""
    parser = argparse.ArgumentParser(description="Write the text that demo-attention learns from.")
    parser.add_argument("count", type=int, help="paragraphs")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sys.stdout.write(write(asked.count, seed=asked.seed))


if __name__ == "__main__":
    main()
