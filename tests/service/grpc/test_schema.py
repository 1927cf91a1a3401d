"""The .proto files are read as protoc reads them, and say what other people's clients say."""

import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from service.grpc.schema import FILES, FOLDER, read_proto

ROOT = Path(__file__).parent.parent.parent.parent
CLIENTS = ROOT / ".cache" / "clients"
needs_clients = pytest.mark.skipif(
    not (CLIENTS / "ready").exists(), reason="make clients installs protoc, tritonclient and kserve"
)
DESCRIPTION = """
import sys
from importlib import import_module
from google.protobuf import descriptor_pb2
found = descriptor_pb2.FileDescriptorSet()
for name in sys.argv[1:]:
    import_module(name).DESCRIPTOR.CopyToProto(found.file.add())
sys.stdout.buffer.write(found.SerializeToString())
"""
THEIRS = {
    "tritonclient": ["tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2"],
    "kserve": ["kserve.protocol.grpc.grpc_predict_v2_pb2"],
}
# KServe numbers the fields of the repository extension in its own way; Triton, whose it is, in ours.
OF_KSERVE_ALONE = "RepositoryModel"


def fields(message: descriptor_pb2.DescriptorProto, path: str) -> dict[str, tuple[int, int, int, str]]:
    """Number, type, label and named type of every field, of messages inside a message too."""
    found = {
        f"{path}.{one.name}": (one.number, one.type, one.label, one.type_name.rpartition(".")[2])
        for one in message.field
    }
    for inner in message.nested_type:
        found |= fields(inner, f"{path}.{inner.name}")
    return found


@needs_clients
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_protoc_reads_it(name: str, tmp_path: Path) -> None:
    compiled = tmp_path / "set"
    command = [str(CLIENTS / "bin" / "python"), "-m", "grpc_tools.protoc"]
    command += [f"-I{FOLDER}", f"--descriptor_set_out={compiled}", name]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    assert read_proto(name) == expected


@needs_clients
@pytest.mark.parametrize("client", THEIRS)
def test_fields_have_the_numbers_and_types_that_clients_have(client: str) -> None:
    command = [str(CLIENTS / "bin" / "python"), "-c", DESCRIPTION, *THEIRS[client]]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    files = descriptor_pb2.FileDescriptorSet.FromString(done.stdout).file
    theirs: dict[str, tuple[int, int, int, str]] = {}
    enums: dict[str, dict[str, int]] = {}
    for file in files:
        for message in file.message_type:
            theirs |= fields(message, message.name)
        enums |= {enum.name: {one.name: one.number for one in enum.value} for enum in file.enum_type}
    ours: dict[str, tuple[int, int, int, str]] = {}
    for message in read_proto("inference.proto").message_type:
        ours |= fields(message, message.name)
    shared = ours.keys() & theirs.keys()
    if client == "kserve":
        shared = {name for name in shared if not name.startswith(OF_KSERVE_ALONE)}
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    missing = {
        name
        for name in ours
        if name not in theirs and name.split(".")[0] in {n.split(".")[0] for n in theirs}
    }
    allowed = {"InferParameter.double_param", "InferParameter.uint64_param"} if client == "kserve" else set()
    assert {name for name in missing if not name.startswith(OF_KSERVE_ALONE)} == allowed
    for enum in read_proto("inference.proto").enum_type if client == "tritonclient" else ():
        assert {one.name: one.number for one in enum.value} == enums[enum.name]
