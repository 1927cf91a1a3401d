"""Paragraphs to pieces, pieces to batches: nothing lost, nothing leaked, nothing left to chance."""

import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SpecError
from models.training import corpus, grammar


def letters(count: int) -> str:
    """Return `count` different one-word paragraphs' worth of text in one paragraph."""
    return " ".join(
        f"{a}{b}" for a in string.ascii_lowercase for b in string.ascii_lowercase[: count // 26 + 1]
    )


@given(lengths=st.lists(st.integers(1, 40), min_size=4, max_size=12), context=st.integers(1, 9))
def test_every_token_but_a_paragraphs_first_is_a_target_once(lengths: list[int], context: int) -> None:
    names = (f"w{number}" for number in range(sum(lengths)))
    paragraphs = [" ".join(next(names) for _ in range(length)) for length in lengths]
    firsts = {paragraph.split()[0] for paragraph in paragraphs}
    expected = sorted(word for paragraph in paragraphs for word in paragraph.split() if word not in firsts)
    if sum(math.ceil((length - 1) / context) for length in lengths) < 2:
        return
    read = corpus.read("\n\n".join(paragraphs), context=context, vocabulary=1000, seed=0)
    pieces = read.training + read.held_out
    assert all(2 <= len(piece) <= context + 1 for piece in pieces)
    assert sorted(read.tokenizer.id_to_token(i) for piece in pieces for i in piece[1:]) == expected


def test_no_held_out_piece_is_trained_on_however_often_it_occurs() -> None:
    read = corpus.read(grammar.write(3000), context=64, vocabulary=1000, seed=0)
    trained = {piece.tobytes() for piece in read.training}
    held = [piece.tobytes() for piece in read.held_out]
    assert len(held) > len(set(held))  # repeats stay together
    assert trained.isdisjoint(held)
    assert len(read.training) + len(held) == 3000


def test_an_epoch_reads_every_piece_once() -> None:
    read = np.concatenate([corpus.drawn(step, count=12, size=4, seed=3) for step in range(6)])
    assert sorted(read[:12]) == sorted(read[12:]) == list(range(12))
    assert list(read[:12]) != list(read[12:])


def test_what_a_step_reads_follows_from_seed_and_step_alone() -> None:
    later = corpus.drawn(7, count=50, size=16, seed=1)
    for step in range(7):
        corpus.drawn(step, count=50, size=16, seed=1)
    np.testing.assert_array_equal(corpus.drawn(7, count=50, size=16, seed=1), later)
    assert list(corpus.drawn(7, count=50, size=16, seed=2)) != list(later)


def test_padding_is_never_a_target() -> None:
    inputs, targets = corpus.batch([np.array([4, 5, 6]), np.array([7, 8])])
    np.testing.assert_array_equal(inputs, [[4, 5], [7, corpus.UNKNOWN_ID]])
    np.testing.assert_array_equal(targets, [[5, 6], [8, corpus.NO_TARGET]])


def test_unigram_is_the_cross_entropy_of_counted_frequencies() -> None:
    tokenizer = corpus.read("a b c\n\nb a c\n\nc b a", context=8, vocabulary=8, seed=0).tokenizer
    a, b, c = (tokenizer.token_to_id(word) for word in "abc")
    read = corpus.Corpus(
        tokenizer=tokenizer, training=[np.array([c, a, a, b])], held_out=[np.array([c, a, b, c])], sha256=""
    )
    # Over [UNK], a, b, c: counts 0, 2, 1, 0 with one added to each are 1, 3, 2, 1 of 7.
    assert read.unigram() == pytest.approx(-(math.log(3 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 3)


def test_words_beyond_the_vocabulary_are_unknown() -> None:
    tokenizer = corpus.read("a a a b b c\n\nb a b a b a", context=3, vocabulary=3, seed=0).tokenizer
    encoded = tokenizer.encode("A, b c")
    assert encoded.tokens == ["a", "[UNK]", "b", "[UNK]"]
    assert encoded.offsets == [(0, 1), (1, 2), (3, 4), (5, 6)]


def test_ids_follow_frequency_then_spelling() -> None:
    tokenizer = corpus.read("d c c a b\n\nc d d c d", context=8, vocabulary=9, seed=0).tokenizer
    assert sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id) == ["[UNK]", "c", "d", "a", "b"]


@pytest.mark.parametrize("text", ["", "word", "one short paragraph", "same here\n\n" * 9])
def test_a_text_too_short_to_measure_on_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="longer text"):
        corpus.read(text, context=8, vocabulary=100, seed=0)


def test_a_text_without_paragraphs_is_cut_and_parted_all_the_same() -> None:
    read = corpus.read(letters(260), context=8, vocabulary=1000, seed=0)
    assert len(read.held_out) == (len(read.training) + len(read.held_out)) // 10
