"""The chart: what it renders is what kustomize does, and nonsense is refused by its schema."""

from typing import Any

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, complaints, in_tools, rendered

CHART = str(DEPLOY / "helm" / "heed")
RENDER = """
import json, sys
from helm_python import chart
made = chart.Chart.load(sys.argv[1])
values = json.load(sys.stdin)
made.validate_schema(values)
print(json.dumps(made.render(values, name="heed", namespace="default")))
"""
REFUSED = """
import json, sys
from helm_python import chart, errors
try:
    chart.Chart.load(sys.argv[1]).validate_schema(json.load(sys.stdin))
    print("null")
except errors.HelmError as error:
    print(json.dumps(str(error)))
"""
LINT = """
import json, sys
from helm_python import chart
print(json.dumps(chart.lint(sys.argv[1], strict=True)))
"""
OF_CHARTS = {  # labels that Helm's charts have
    "helm.sh/chart",
    *(f"app.kubernetes.io/{name}" for name in ("instance", "version", "managed-by", "component")),
}


def objects(**values: Any) -> list[dict[str, Any]]:
    files = in_tools(RENDER, CHART, given=values)
    found = [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]
    return [one for one in found if one]


def plain(part: Any) -> Any:
    """Return an object without a chart's own labels, lists of objects by name."""
    if isinstance(part, dict):
        return {name: plain(value) for name, value in part.items() if name not in OF_CHARTS}
    if isinstance(part, list):
        return sorted((plain(one) for one in part), key=str)
    return part


def test_chart_renders_the_objects_of_the_base():
    ours = {one["kind"]: plain(one) for one in objects()}
    base = {one["kind"]: plain(one) for one in rendered(DEPLOY / "kubernetes" / "base")}
    for one in (*ours.values(), *base.values()):  # labels of the object itself: the base puts none
        one["metadata"].pop("labels", None)
    assert ours == base


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"gpu": {"enabled": True}, "image": {"tag": "cuda"}},
        {"autoscaling": {"enabled": True}, "monitoring": {"enabled": True}},
        {"existingClaim": "models", "networkPolicy": {"enabled": False}},
        {"models": [{"name": "a", "source": "hf://a/a"}, {"name": "b", "source": "s3://b/b"}]},
        {"settings": {"MAX_BATCH_TOKENS": 4096, "LOG_LEVEL": "debug"}, "tolerations": [{"key": "x"}]},
    ],
    ids=str,
)
def test_what_values_make_passes_strict_schemas(values):
    assert complaints(objects(**values)) == []


def test_gpu_asks_for_one_and_tells_the_server():
    (deployment,) = [one for one in objects(gpu={"enabled": True}) if one["kind"] == "Deployment"]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "HEED_DEVICE", "value": "cuda"} in server["env"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_chart_is_lint_free():
    report = in_tools(LINT, CHART)
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"models": [{"name": "a", "source": "ftp://a"}]}, "source"),
        ({"models": [{"name": "../a", "source": "hf://a/a"}]}, "name"),
        ({"settings": {"drain_seconds": 3}}, "drain_seconds"),
        ({"settings": {"PORT": 9000}}, "PORT"),  # the chart's own
        ({"service": {"port": 0}}, "port"),
        ({"resources": {"requests": "4"}}, "requests"),
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(values, said):
    refusal = in_tools(REFUSED, CHART, given=values)
    assert refusal is not None
    assert said in refusal
