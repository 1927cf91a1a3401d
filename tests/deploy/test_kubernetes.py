"""What deploy/kubernetes and deploy/kserve have, against schemas of Kubernetes and of custom resources."""

import copy
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, complaints, rendered

KUBERNETES = DEPLOY / "kubernetes"
FOLDERS = ["base", *(f"overlays/{name}" for name in ("gpu", "keda", "monitoring", "gateway"))]
KSERVE = sorted((DEPLOY / "kserve").glob("*.yaml"))


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (one,) = [one for one in objects if one["kind"] == kind]
    return one


@pytest.mark.parametrize("folder", FOLDERS)
def test_objects_pass_strict_schemas(folder):
    assert complaints(rendered(KUBERNETES / folder)) == []


def test_base_passes_the_oldest_version_that_has_its_fields():
    assert complaints(rendered(KUBERNETES / "base"), version="1.30") == []


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "lifecycle"), "preStopp"),
        ("Deployment", ("spec", "template", "spec", "securityContext"), "runAsNotRoot"),
        ("NetworkPolicy", ("spec",), "ingres"),
        ("PodDisruptionBudget", ("spec",), "maxUnavailabel"),
    ],
)
def test_mistyped_field_fails(kind, path, wrong):
    one = copy.deepcopy(only(rendered(KUBERNETES / "base"), kind))
    at: Any = one
    for step in path:
        at = at[step]
    at[wrong] = at.pop(next(iter(at)))
    assert complaints([one]) != []


@pytest.mark.parametrize("file", KSERVE, ids=lambda file: file.stem)
def test_kserve_objects_pass_their_published_schemas(file):
    objects = list(yaml.safe_load_all(file.read_text()))
    assert complaints(objects) == []
    for one in objects:
        if one["kind"] == "InferenceService":  # else KServe takes v1 for granted, and no v2 runtime is found
            protocol = "grpc-v2" if file.stem == "grpc" else "v2"
            assert one["spec"]["predictor"]["model"]["protocolVersion"] == protocol


def test_the_runtime_over_grpc_is_the_other_one_on_the_port_that_kserve_takes():
    runtime, service = yaml.safe_load_all((DEPLOY / "kserve" / "grpc.yaml").read_text())
    other = yaml.safe_load((DEPLOY / "kserve" / "clusterservingruntime.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    (ours,), (theirs,) = runtime["spec"]["containers"], other["spec"]["containers"]
    (first, *others) = ours["ports"]
    assert (first["name"], first["containerPort"], others) == ("h2c", 9000, [])
    settings = {one["name"]: one["value"] for one in ours["env"]}
    assert settings.pop("HEED_GRPC_PORT") == "9000"
    assert settings == {one["name"]: one["value"] for one in theirs["env"]}
    for probe, asked in (("startup", "readiness"), ("readiness", "readiness"), ("liveness", "liveness")):
        assert ours[f"{probe}Probe"]["grpc"] == {"port": 9000, "service": asked}
    differs = {"env", "ports", "startupProbe", "readinessProbe", "livenessProbe"}
    assert {name for name in ours | theirs if ours.get(name) != theirs.get(name)} == differs


def test_mistyped_field_of_a_custom_resource_fails():
    runtime = yaml.safe_load((DEPLOY / "kserve" / "clusterservingruntime.yaml").read_text())
    runtime["spec"]["protocolVersions"] = "v2"
    assert complaints([runtime]) != []


def test_servers_are_confined_and_end_in_time():
    pod = only(rendered(KUBERNETES / "base"), "Deployment")["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    (server,) = pod["containers"]
    for one in (server, *pod["initContainers"]):
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["requests"] == one["resources"]["limits"]
    settings = {one["name"]: one.get("value") for one in server["env"]}
    before = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + float(settings["HEED_DRAIN_SECONDS"]) + 5


def test_selectors_choose_the_servers_and_clients_are_chosen_by_their_own_label():
    objects = rendered(KUBERNETES / "base")
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind, path in (
        ("Service", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        chosen = only(objects, kind)["spec"][path]
        assert (chosen.get("matchLabels") or chosen).items() <= labels.items()
    sources = only(objects, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert [next(iter(source.values()))["matchLabels"] for source in sources] == [{"heed-client": "true"}] * 2
