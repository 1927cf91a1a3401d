"""What deploy/ray has for Kubernetes, against published schemas, and every file against the settings."""

from typing import Any

import pytest
import yaml

from service.environment import load_settings
from service.replicas.options import options_of
from tests.deploy.conftest import DEPLOY, complaints

FILES = DEPLOY / "ray"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FILES / "rayservice.yaml").read_text())
    return found


def groups(service: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def configs(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {name: yaml.safe_load((FILES / name).read_text()) for name in ("serve.yaml", "serve-gpu.yaml")}
    found["rayservice.yaml"] = yaml.safe_load(service["spec"]["serveConfigV2"])
    return found


def test_custom_resources_pass_their_published_schemas(service):
    assert complaints([service]) == []
    assert complaints([yaml.safe_load((FILES / "podmonitor.yaml").read_text())]) == []
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] = "eight"
    assert complaints([service]) != []


def test_pods_pass_kubernetes_own_schema_strictly(service):
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "heed"}, "spec": group["template"]["spec"]}
        for group in groups(service)
    ]
    assert complaints(pods) == []
    pods[0]["spec"]["enableServiceLink"] = False
    assert complaints(pods) != []


def test_pods_are_confined_and_outlive_their_replicas(service):
    (replicas,) = configs(service)["rayservice.yaml"]["applications"][0]["deployments"]
    for group in groups(service):
        pod = group["template"]["spec"]
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert pod["terminationGracePeriodSeconds"] > replicas["graceful_shutdown_timeout_s"]
    assert int(container["resources"]["limits"]["cpu"]) >= replicas["ray_actor_options"]["num_cpus"]


def test_every_application_has_settings_that_hold_and_replicas_that_suit_them(service):
    for name, config in configs(service).items():
        for application in config["applications"]:
            assert application["import_path"] == "service.ray:app", name
            environ = application.get("runtime_env", {}).get("env_vars", {})
            settings = load_settings(environ, options_of(application["args"]))
            assert (settings.root_path or "/") == application["route_prefix"]
            (replicas,) = application["deployments"]
            assert replicas["name"] == "heed"
            assert replicas["max_ongoing_requests"] <= settings.max_queued_requests
            assert replicas["graceful_shutdown_timeout_s"] > settings.drain_seconds
            assert replicas["graceful_shutdown_timeout_s"] > settings.deadline_ms / 1000
            assert replicas["health_check_timeout_s"] >= settings.watchdog_seconds
            if scaled := replicas.get("autoscaling_config"):
                assert scaled["target_ongoing_requests"] < replicas["max_ongoing_requests"]
                assert scaled["max_replicas"] > scaled["min_replicas"]
