"""`heed models` and `heed attend`, as typed, against a real server on the fake runtime."""

import json
import socket

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner, Result

from service.cli import cli
from service.commands.bench import percentile
from tests.e2e.conftest import FakeServer, Start

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def server(start_once: Start) -> FakeServer:
    return start_once()


def heed(server: FakeServer, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--url", f"http://127.0.0.1:{server.port}"])


def test_models_are_listed(server):
    done = heed(server, "models")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].split()[:5] == ["fake", "1", "2", "2", "4"]


def test_sentence_is_shown_with_whom_each_token_attends_to(server):
    done = heed(server, "attend", "fake", "she sat [down]", "--top-k", "2", "--layer", "0", "--head", "1")
    assert done.exit_code == 0, done.output
    title, _, *rows = done.stdout.splitlines()
    assert "layer 0, head 1" in title
    assert [row.split()[0] for row in rows] == ["she", "sat", "[down]"]
    assert all(row.count("0.33") == 2 for row in rows)


def test_tokens_are_shown_or_counted(server):
    done = heed(server, "tokenize", "fake", "she  sat")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1:] for row in rows] == [
        ["added", "[begin]"],
        ["0-3", "she"],
        ["5-8", "sat"],
        ["added", "[end]"],
    ]
    assert heed(server, "tokenize", "fake", "she sat", "--plain", "--count").stdout == "2\n"
    read = CliRunner().invoke(
        cli, ["tokenize", "fake", "-", "--count", "--url", f"http://127.0.0.1:{server.port}"], input="a b c"
    )
    assert read.stdout == "5\n"
    assert "no model is called" in heed(server, "tokenize", "none", "a").stderr


def test_every_layer_is_drawn_under_its_own_number(server):
    done = heed(server, "attend", "fake", "she sat", "--layer", "all")
    assert done.exit_code == 0, done.output
    titles = [line for line in done.stdout.splitlines() if "whom it attends to" in line]
    assert [title.split(",")[1].strip() for title in titles] == ["layer 0", "layer 1"]
    assert "fake, layer 1, mean" in heed(server, "attend", "fake", "she sat").stdout  # counted from the end


def test_rows_and_words_are_shown_by_name(server):
    chosen = heed(server, "attend", "fake", "she sat down", "--rows", "-1").stdout.splitlines()
    assert [line.split()[0] for line in chosen[2:]] == ["down"]
    words = heed(server, "attend", "fake", "she sat", "--spans", "words").stdout.splitlines()
    assert "each row is a span" in words[0]
    assert [line.split()[0] for line in words[2:]] == ["she", "sat"]


def test_numbers_are_printed_as_json(server):
    done = heed(server, "attend", "fake", "she sat", "--json", "--outputs", "z,weights", "--layer", "0")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["model"] == "fake"
    (one,) = said["outputs"]
    assert one["tokens"] == ["she", "sat"]
    assert np.shape(one["z"]) == (2, 4)
    assert np.shape(one["weights"]) == (2, 2, 2)


def test_npy_file_in_and_npy_file_out(server, tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    done = heed(server, "attend", "fake", str(tmp_path / "x.npy"), "-o", str(tmp_path / "z.npy"))
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), 2 * X)


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_npy_file_that_is_no_sequence_is_refused_with_what_is_taken(server, tmp_path, shape):
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    done = heed(server, "attend", "fake", str(tmp_path / "x.npy"))
    assert done.exit_code == 1
    assert f"{list(shape)}; give one sequence: token ids [T] or embeddings [T, d_model]" in done.stderr


def test_several_outputs_go_into_a_safetensors_file(server, tmp_path):
    file = tmp_path / "all.safetensors"
    done = heed(server, "attend", "fake", "one two", "-o", str(file), "--outputs", "z,top_k", "--top-k", "1")
    assert done.exit_code == 0, done.output
    written = safetensors.numpy.load_file(file)
    assert set(written) == {"z", "top_k_keys", "top_k_weights", "top_k_rest"}
    assert written["top_k_keys"].shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attend", "none", "text"], "no model"),
        (["attend", "fake", "missing.npy"], "no .npy file"),
        (["attend", "fake", "text", "-o", "z.txt"], ".safetensors"),
        (["attend", "fake", "text", "-o", "z.npy", "--outputs", "z,weights"], "one output"),
        (["attend", "fake", "text", "-o", "z.npy", "--outputs", "top_k"], "one output"),
        (["attend", "fake", "text", "--layer", "7"], "layers has 7"),
        (["attend", "fake", "text", "--layer", "first"], "give a number"),
        (["attend", "fake", "text", "--head", "1", "--heads", "0.1"], "give one of them"),
        (["attend", "fake", "text", "--edit", "silence 0.1"], "begins with none of"),
        (["attend", "fake", "text", "-o", "/nowhere/z.npy"], "cannot write"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line_on_stderr(server, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = heed(server, *words)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_said_to_be_none():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = CliRunner().invoke(cli, ["models", "--url", f"http://127.0.0.1:{free.getsockname()[1]}"])
    assert done.exit_code == 1
    assert "heed: " in done.stderr
    assert "start a server with `heed serve`" in done.stderr


def test_bench_measures_each_number_of_connections(server):
    done = heed(server, "bench", "fake", "--connections", "1,3", "--seconds", "0.2", "--longest", "16")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "3"]
    for _, rate, p50, p99, unanswered in rows:
        assert float(rate) > 0
        assert 0 < float(p50) <= float(p99)
        assert unanswered == "0"


def test_bench_counts_what_is_not_answered_and_fails_when_nothing_is(server):
    words = ("bench", "fake", "--connections", "2", "--seconds", "0.1", "--outputs", "none")
    done = heed(server, *words)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1].split()[:2] == ["2", "0"]
    assert "422: " in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "none"], "no model is called"),
        (["bench", "fake", "--connections", "0"], "from 1 to"),
        (["bench", "fake", "--connections", "x"], "from 1 to"),
        (["bench", "fake", "--shortest", "9", "--longest", "8"], "--shortest 9"),
    ],
)
def test_bench_says_what_is_wrong_in_one_line(server, words, said):
    done = heed(server, *words)
    assert done.exit_code == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_percentiles_are_nearest_ranks():
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([3.0], 0.5) == 3.0
