import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.errors import SpecError
from models.folders.families import ModelFolder
from models.folders.importing import import_model
from models.folders.parameters import parameter_shapes
from models.folders.repository import Repository
from models.runtime import TorchRuntime
from models.spec import ModelSpec
from tests.transformers_models import FOREIGN, save_random

SPEC = ModelSpec(d_model=8, heads=2)
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
MODERN = SMALL | {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
    **FOREIGN,
}


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SPEC.to_config()))
    tensors = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(SPEC).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def everything_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def test_an_imported_folder_is_served(tmp_path: Path, repository: Path) -> None:
    done = import_model(model(tmp_path / "mine"), repository)
    assert (done.name, done.version, done.folder) == ("mine", "1", repository / "mine")
    assert isinstance(done.found, ModelFolder)
    assert done.found.spec == SPEC
    runtime = TorchRuntime(repository, models=None, device="cpu", dtype="float32")
    assert runtime.card("mine").bytes_resident == done.weight_bytes


def test_a_model_folder_is_no_repository_to_import_into(tmp_path: Path) -> None:
    into = model(tmp_path / "mine")
    before = everything_in(into)
    with pytest.raises(SpecError, match="itself a model folder"):
        import_model(model(tmp_path / "other"), into)
    assert everything_in(into) == before


def test_only_what_a_server_reads_is_copied_and_the_rest_is_named(tmp_path: Path, repository: Path) -> None:
    source = model(tmp_path / "mine")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (source / "modules.json").write_text('[{"type": "Pooling", "path": "1_Pooling"}]')
    (source / "onnx").mkdir()
    for name in ("pytorch_model.bin", "modeling_mine.py", "onnx/model.onnx", "onnx/config.json"):
        (source / name).write_text("anything")
    (source / "README.md").write_text("# Mine")
    (source / "LICENSE").write_text("free")
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("secret")
    done = import_model(source, repository)
    assert done.left_out == ("modeling_mine.py", "onnx/config.json", "onnx/model.onnx", "pytorch_model.bin")
    assert everything_in(repository / "mine") == [
        *("1_Pooling", "1_Pooling/config.json", "LICENSE", "README.md"),
        *("config.json", "model.safetensors", "modules.json"),
    ]


def test_hashes_are_those_of_the_files(tmp_path: Path, repository: Path) -> None:
    done = import_model(model(tmp_path / "mine"), repository)
    for name, sha256 in done.sha256.items():
        assert hashlib.sha256((done.folder / name).read_bytes()).hexdigest() == sha256


def cached(tmp_path: Path, *, damaged: bool = False) -> Path:
    """A folder as the cache of huggingface_hub keeps it: links to blobs called by their hashes."""
    source, cache = model(tmp_path / "plain"), tmp_path / "models--maker--tiny-model"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for file in source.iterdir():
        blob = cache / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes() + b" " * damaged)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def test_a_snapshot_of_the_cache_is_copied_without_its_links_under_the_models_name(
    tmp_path: Path, repository: Path
) -> None:
    done = import_model(cached(tmp_path), repository)
    assert done.name == "tiny-model"
    assert not any(path.is_symlink() for path in done.folder.rglob("*"))
    assert Repository(repository).find("tiny-model")[0] == "1"


def test_a_file_that_is_not_what_its_hash_says_is_refused(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(SpecError, match="damaged: its SHA-256"):
        import_model(cached(tmp_path, damaged=True), repository)
    assert everything_in(repository) == []


def test_a_model_with_versions_gets_the_next_one(tmp_path: Path, repository: Path) -> None:
    source = model(tmp_path / "mine")
    assert import_model(source, repository, version="4").folder == repository / "mine" / "4"
    assert import_model(source, repository).version == "5"
    assert Repository(repository).versions("mine") == ["4", "5"]
    with pytest.raises(SpecError, match="already"):
        import_model(source, repository, version="5")


def test_a_plain_model_is_never_replaced(tmp_path: Path, repository: Path) -> None:
    source = model(tmp_path / "mine")
    import_model(source, repository)
    before = everything_in(repository)
    for version in (None, "2"):
        with pytest.raises(SpecError, match="already"):
            import_model(source, repository, version=version)
    assert everything_in(repository) == before
    assert import_model(source, repository, name="another").name == "another"


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def cut_short(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])


def of_another_model(folder: Path) -> None:
    save_file({"layers.0.attention.query.weight": np.ones((8, 8), np.float32)}, folder / "model.safetensors")


def code_of_its_own(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": {"AutoModel": "m.M"}}))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (only_pickle, r"pytorch_model\.bin, which may run code"),
        (no_configuration, r"config\.json"),
        (cut_short, "not a whole safetensors file"),
        (of_another_model, "missing layers"),
        (code_of_its_own, "model_type"),
    ],
)
def test_a_folder_that_cannot_be_served_leaves_nothing_behind(break_it, reason, tmp_path, repository) -> None:
    source = model(tmp_path / "mine")
    break_it(source)
    with pytest.raises(SpecError, match=reason):
        import_model(source, repository)
    assert everything_in(repository) == []


@pytest.mark.parametrize("name", ["../out", ".hidden", "a b", "", "a/b"])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, tmp_path: Path, repository: Path) -> None:
    with pytest.raises(SpecError, match="name"):
        import_model(model(tmp_path / "mine"), repository, name=name)
    with pytest.raises(SpecError, match="version"):
        import_model(tmp_path / "mine", repository, version="01")
    with pytest.raises(SpecError, match="fetch the model first"):
        import_model(Path("https://example.org/model"), repository)


def test_an_architecture_for_transformers_is_imported_with_the_reason(
    tmp_path: Path, repository: Path
) -> None:
    save_random("modernbert", MODERN, "ModernBertModel", tmp_path / "mine")
    done = import_model(tmp_path / "mine", repository)
    assert not isinstance(done.found, ModelFolder)
    assert "modernbert" in done.found.reason
