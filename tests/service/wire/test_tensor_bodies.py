import io
import json

import numpy as np
import pytest
import safetensors.numpy

from models.protocol import Answer, Text
from service.errors import Malformed
from service.wire import safetensors_format, tensor_bodies
from service.wire.buffers import PIECE_BYTES, gather
from service.wire.reply import Reply

Z = np.arange(6, dtype=np.float32).reshape(2, 3)


def body_of(**tensors: np.ndarray) -> bytes:
    return b"".join(
        safetensors_format.encode({name.replace("_", ".", 1): array for name, array in tensors.items()})
    )


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_floats_of_a_npy_file_are_embeddings_and_integers_token_ids():
    (one,) = tensor_bodies.npy_inputs(saved(Z))["inputs"]
    np.testing.assert_array_equal(one["embeddings"], Z)
    (one,) = tensor_bodies.npy_inputs(saved(np.array([3, 4])))["inputs"]
    np.testing.assert_array_equal(one["token_ids"], [3, 4])


def test_tensors_are_put_to_their_inputs_whatever_their_order():
    body = b"".join(
        safetensors_format.encode(
            {"1.embeddings": Z, "0.mask": np.array([True]), "0.token_ids": np.array([7])}
        )
    )
    first, second = tensor_bodies.safetensors_inputs(body)["inputs"]
    assert (first["token_ids"].tolist(), first["mask"].tolist()) == ([7], [True])
    assert list(second) == ["embeddings"]


def test_spans_become_a_list():
    body = b"".join(safetensors_format.encode({"0.embeddings": Z, "0.spans": np.array([[0, 1], [1, 2]])}))
    assert tensor_bodies.safetensors_inputs(body)["inputs"][0]["spans"] == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["embeddings"],
        ["1.embeddings"],
        ["0.embeddings", "2.embeddings"],
        ["00.embeddings"],
        ["-1.embeddings"],
        ["0.Embeddings"],
        ["0.embeddings.x"],
        ["0."],
        [".embeddings"],
        ["٣.embeddings"],
        ["0.embeddings\n"],
        ["9999999.embeddings"],
        ["0." + "x" * 65],
    ],
)
def test_names_that_are_no_field_of_an_input_are_malformed(names):
    body = b"".join(safetensors_format.encode(dict.fromkeys(names, Z)))
    with pytest.raises(Malformed):
        tensor_bodies.safetensors_inputs(body)


def test_npy_reply_is_the_one_output():
    reply = Reply(answers=[Answer(tensors={"z": Z})], texts=[None], tokens=2)
    back = np.load(io.BytesIO(b"".join(tensor_bodies.npy_reply(reply))))
    np.testing.assert_array_equal(back, Z)


def test_safetensors_reply_holds_all_that_json_does():
    ids = np.array([1, 2])
    text = Text(
        ids=ids,
        type_ids=ids,
        tokens=("a", "ß"),
        offsets=((0, 1), (2, 3)),
        special=(True, False),
        truncated=3,
    )
    reply = Reply(
        answers=[Answer(tensors={"z": Z}), Answer(tensors={"z": Z[:1], "top_k_keys": np.int32([[1]])})],
        texts=[text, None],
        tokens=3,
        model="m",
        version="7",
    )
    body = b"".join(tensor_bodies.safetensors_reply(reply))
    arrays = safetensors.numpy.load(body)
    assert set(arrays) == {"0.z", "1.z", "1.top_k_keys"}
    np.testing.assert_array_equal(arrays["1.z"], Z[:1])
    said = safetensors_format.decode(body).metadata
    assert (said["model"], said["version"], said["usage.sequences"], said["usage.tokens"]) == (
        "m",
        "7",
        "2",
        "3",
    )
    assert json.loads(said["0.tokens"]) == ["a", "ß"]
    assert json.loads(said["0.offsets"]) == [[0, 1], [2, 3]]
    assert json.loads(said["0.special"]) == [True, False]
    assert said["0.truncated"] == "3"
    assert "1.tokens" not in said


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1], [5, 0, 5], [PIECE_BYTES], [10, PIECE_BYTES, 10], [PIECE_BYTES - 1] * 3, [100] * 2000],
)
def test_gathered_pieces_are_the_same_bytes_and_large_ones_the_same_memory(sizes):
    chance = np.random.default_rng(0)
    buffers = [chance.integers(0, 256, size, dtype=np.uint8).data for size in sizes]
    gathered = gather(buffers)
    assert b"".join(gathered) == b"".join(buffers)
    for buffer in buffers:
        if len(buffer) >= PIECE_BYTES:
            assert any(piece is buffer for piece in gathered)
    assert all(len(piece) <= max(PIECE_BYTES, *sizes) for piece in gathered)
    assert len(gathered) <= 2 * sum(sizes) / PIECE_BYTES + 2


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((40_000, 2), np.int64), "40000 spans; the limit is 32768"),
        (np.zeros((1 << 24, 0), np.int64), "spans are whole numbers"),
        (np.zeros((4, 1), np.int64), "spans are whole numbers"),
        (np.zeros((4, 2), np.bool_), "spans are whole numbers"),
    ],
)
def test_spans_are_counted_before_they_are_made(array: np.ndarray, said: str) -> None:
    body = safetensors_format.encode({"0.embeddings": np.zeros((1, 2), np.float32), "0.spans": array})
    with pytest.raises(Malformed, match=said):
        tensor_bodies.safetensors_inputs(b"".join(bytes(piece) for piece in body))
