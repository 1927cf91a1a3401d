"""Words and characters to ranges of tokens, on tokenizers of both kinds, and what the reply tells of them."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from models.protocol import Text
from models.text.files import TokenizerFiles
from models.text.tokenizer import Tokenizer
from service.errors import Invalid
from service.http.texts.spans import Span, spans_of_characters, spans_of_words
from tests.serving import served

SENTENCE = "Unbelievable things, re-told!"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """BERT's kind: words cut into pieces, punctuation apart, [CLS] and [SEP] around."""
    file = tmp_path_factory.mktemp("pieces") / "vocab.txt"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "un",
        "##believ",
        "##able",
        "things",
        "re",
        "told",
        ",",
        "-",
        "!",
    ]
    file.write_text("\n".join(words))
    return Tokenizer(TokenizerFiles(file=file, kind="BertTokenizer"))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-2's kind: the white space before a word is a part of its token, nothing is added."""
    made = tokenizers.Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        [SENTENCE] * 3, BpeTrainer(vocab_size=280, initial_alphabet=ByteLevel.alphabet())
    )
    file = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    made.save(str(file))
    return Tokenizer(TokenizerFiles(file=file))


def words_of(text: Text, spans: list[tuple[int, int]], *texts: str) -> list[str]:
    """What the tokens of each span stand for, by their offsets."""
    parts = text.parts or (0,) * len(text.ids)
    return [
        texts[parts[start]][text.offsets[start][0] : text.offsets[end - 1][1]].strip() for start, end in spans
    ]


@pytest.mark.parametrize("kind", ["pieces", "byte_level"])
def test_tokens_of_a_word_are_one_span(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    text = tokenizer.encode(SENTENCE)
    spans = spans_of_words(text, SENTENCE, None, path="inputs[0]")
    assert words_of(text, spans, SENTENCE) == SENTENCE.split()
    covered = [at for start, end in spans for at in range(start, end)]
    assert covered == [at for at, special in enumerate(text.special) if not special]


def test_words_of_a_pair_are_each_texts_own(pieces: Tokenizer) -> None:
    first, second = "things told", "re-told things"
    text = pieces.encode(first, second)
    spans = spans_of_words(text, first, second, path="inputs[0]")
    assert words_of(text, spans, first, second) == ["things", "told", "re-told", "things"]


def test_words_that_were_cut_off_have_no_span(pieces: Tokenizer) -> None:
    text = pieces.encode("things told things told", limit=4, truncate=True)
    spans = spans_of_words(text, "things told things told", None, path="inputs[0]")
    assert spans == [(1, 2), (2, 3)]
    with pytest.raises(Invalid, match="has no words"):
        spans_of_words(pieces.encode(""), "", None, path="inputs[0]")


def test_characters_are_the_tokens_they_touch(pieces: Tokenizer) -> None:
    text = pieces.encode(SENTENCE)
    whole, inside = (0, 12), (3, 4)  # "Unbelievable", and one letter in the midst of its second piece
    found = spans_of_characters([whole, inside, (13, 19)], text, SENTENCE, path="inputs[0]", labels="abc")
    assert found == [(1, 4), (2, 3), (4, 5)]
    with pytest.raises(Invalid, match=r"spans\[0\] is \[12, 13\].*no token"):
        spans_of_characters([(12, 13)], text, SENTENCE, path="inputs[0]", labels=["spans[0]"])
    with pytest.raises(Invalid, match=r"end ≤ 29"):
        spans_of_characters([(0, 30)], text, SENTENCE, path="inputs[0]", labels=["spans[0]"])


def test_reply_tells_which_tokens_were_summed() -> None:
    with served() as service:
        body = {"inputs": [{"text": "one two three"}], "outputs": ["weights"], "spans": "words"}
        (output,) = service.attend(body).json()["outputs"]
        assert output["spans"] == [[0, 1], [1, 2], [2, 3]]
        assert np.shape(output["weights"])[-2:] == (3, 3)
        body = {**body, "spans": [[0, 7]], "span_unit": "characters"}
        assert service.attend(body).json()["outputs"][0]["spans"] == [[0, 2]]
        body = {**body, "spans": [[0, 2]], "span_unit": "tokens"}
        assert "spans" not in service.attend(body).json()["outputs"][0]


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ({"token_ids": [1]}, {"spans": "words"}, "are of texts"),
        ({"token_ids": [1]}, {"spans": [[0, 1]], "span_unit": "characters"}, "are of texts"),
        ({"text": "a", "pair": "b"}, {"spans": [[0, 1]], "span_unit": "characters"}, "is a pair"),
        ({"text": "a"}, {"spans": "letters"}, 'or "words"'),
        ({"text": "a"}, {"spans": [[0]]}, 'or "words"'),
        ({"text": "a"}, {"spans": "words", "rows": [0]}, "leave rows or leave spans"),
    ],
)
def test_what_does_not_fit_is_refused(
    given: dict[str, object], options: dict[str, object], said: str
) -> None:
    with served() as service:
        reply = service.attend({"inputs": [given], "outputs": ["weights"], **options})
    assert reply.status_code == 422
    assert said in reply.json()["error"]["message"]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.booleans()), min_size=1, max_size=8),
    st.tuples(st.integers(0, 15), st.integers(1, 16)),
)
def test_characters_are_found_wherever_tokens_lie(tokens: list[tuple[int, int, bool]], asked: Span) -> None:
    start, end = asked[0], max(asked[0] + 1, asked[1])
    offsets = tuple((begin, begin + length) for begin, length, _ in tokens)
    ids = np.zeros(len(tokens), np.int64)
    special = tuple(special for _, _, special in tokens)
    text = Text(ids=ids, type_ids=ids, tokens=("x",) * len(tokens), offsets=offsets, special=special)
    touched = [
        place
        for place, ((begin, stop), added) in enumerate(zip(offsets, special, strict=True))
        if not added and begin < stop and any(begin <= at < stop for at in range(start, end))
    ]

    def found() -> list[Span]:
        return spans_of_characters([(start, end)], text, "x" * 16, path="inputs[0]", labels=["spans[0]"])

    if touched:
        assert found() == [(touched[0], touched[-1] + 1)]
    else:
        with pytest.raises(Invalid, match="has no token"):
            found()
