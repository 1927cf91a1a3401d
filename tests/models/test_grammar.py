"""The grammar keeps its own rules, as read back from its text by word lists of the tests' own."""

import re
from collections import Counter

import pytest

from models.training.grammar import Story, contrasts, stories, write

WOMEN, MEN = {"Mary", "Anna", "Lucy", "Emma"}, {"Tom", "Peter", "John", "David"}
PLURAL_VERBS = {"sleep", "sing", "wait", "run", "are", "were", "see", "like", "follow"}
SINGULAR_VERBS = {"sleeps", "sings", "waits", "runs", "is", "was", "sees", "likes", "follows"}
SENSES = {
    "bank": [
        ({"river", "boat", "fish"}, {"wet", "green", "soft", "grass", "mud", "sand"}),
        ({"office", "money", "shop"}, {"large", "cheap", "safe", "loan", "cheque", "account"}),
    ],
    "apple": [
        ({"tree", "orchard", "market"}, {"pie", "juice", "cake", "sweet", "ripe", "sour"}),
        ({"office", "screen", "desk"}, {"phone", "laptop", "tablet", "fast", "bright", "smart"}),
    ],
}


def plural(noun: str) -> bool:
    return noun.endswith("s") or noun == "children"


def words(story: Story) -> list[str]:
    return re.findall(r"\w+", story.text)


def of_kind(kind: str, count: int = 4000) -> list[Story]:
    return [story for story in stories(count, seed=1) if story.kind == kind]


def test_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    assert write(200, seed=5) == write(200, seed=5)
    assert write(200, seed=5) != write(200, seed=6)


def test_a_longer_text_begins_with_the_shorter_one() -> None:
    assert write(100).startswith(write(40).rstrip("\n"))


def test_kinds_come_in_equal_parts() -> None:
    assert set(Counter(story.kind for story in stories(400)).values()) == {100}


def test_the_text_is_of_150_different_words_or_so() -> None:
    assert 100 <= len(set(re.findall(r"\w+", write(8000).lower()))) <= 200


def test_last_verb_agrees_with_the_subject_whatever_stands_between() -> None:
    crossed = 0
    for story in of_kind("agreement"):
        told = [word for word in words(story) if word not in ("old", "new")]
        verbs = [word for word in told if word in PLURAL_VERBS | SINGULAR_VERBS]
        assert plural(told[1]) == (verbs[-1] in PLURAL_VERBS), story.text
        between = told[told.index("the") + 1]
        crossed += plural(between) != plural(told[1])
        if told[2] == "that":
            assert plural(between) == (verbs[0] in PLURAL_VERBS), story.text
    assert crossed > 300  # the nearest noun is a bad guide


def test_pronouns_refer_to_the_name_and_the_thing_before() -> None:
    for story in of_kind("reference"):
        told = words(story)
        woman = told[0] in WOMEN
        assert ("She" in told) == woman, story.text
        assert ("He" in told) != woman, story.text
        if "lost" in told:
            assert told[2] == ("her" if woman else "his"), story.text
            assert told[told.index("found") + 1] == ("them" if plural(told[3]) else "it"), story.text
        else:
            assert told[2] != told[0]
            assert told[told.index("told") + 1] == ("her" if told[2] in WOMEN else "him"), story.text
            assert told[-1] == ("herself" if woman else "himself"), story.text


def test_words_keep_their_order() -> None:
    for story in of_kind("order"):
        told = words(story)
        if story.text.endswith("?"):
            assert told[1] == ("do" if plural(told[4]) else "does"), story.text
            assert told[5] in PLURAL_VERBS, story.text
        else:
            assert (told[2] in PLURAL_VERBS) == plural(told[1]), story.text
            assert told[4] in ("big", "small"), story.text
            assert told[5] in ("old", "new"), story.text
            assert told[6] in ("red", "blue", "white"), story.text


@pytest.mark.parametrize("word", ["bank", "apple"])
def test_a_word_of_two_senses_takes_the_one_decided_before_it(word: str) -> None:
    met: Counter[int] = Counter()
    for story in of_kind("sense"):
        told = words(story)
        if word not in told:
            continue
        before, after = set(told[: told.index(word)]), set(told[told.index(word) + 1 :])
        (sense,) = [n for n, (cues, _) in enumerate(SENSES[word]) if cues & before]
        met[sense] += 1
        assert len(after & SENSES[word][sense][1]) >= 1, story.text
        assert not after & SENSES[word][1 - sense][1], story.text
    assert min(met[0], met[1]) > 100


def test_contrasts_hold_in_the_text() -> None:
    text = "\n" + write(20000, seed=2)
    asked = list(contrasts())
    assert {contrast.kind for contrast in asked} == {"agreement", "reference", "order", "sense"}
    wrong = [one for one in asked if re.search(rf"\n{re.escape(one.prompt)} {one.wrong}\b", text)]
    right = [one for one in asked if re.search(rf"\n{re.escape(one.prompt)} {one.right}\b", text)]
    assert wrong == []
    assert len(right) > len(asked) / 2
