"""`heed models` and `heed attend`, as typed, against a real server on the fake runtime."""

import socket

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner, Result

from service.cli import cli
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


def test_npy_file_in_and_npy_file_out(server, tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    done = heed(server, "attend", "fake", str(tmp_path / "x.npy"), "-o", str(tmp_path / "z.npy"))
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), 2 * X)


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
