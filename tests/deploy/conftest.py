"""Programs that check what deploy/ has, from an environment of their own that `make test` makes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".cache" / "deploy"
SCHEMAS = ROOT.parent / "shared" / "schemas"  # published ones of custom resources; nothing of them is ours


def tool(name: str) -> str:
    """Return where a program is; skip where it is not to be had."""
    inside = TOOLS / "bin" / name
    if (TOOLS / "ready").exists() and inside.exists():
        return str(inside)
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: see tests/deploy/tools.txt and deploy/install-test-tools.sh")
    return found


def in_tools(script: str, *words: str, given: object = None) -> Any:
    """Run a few lines in the tools' environment; return what they print as JSON. `given` is their input."""
    if not (TOOLS / "ready").exists():
        pytest.skip("the tools of tests/deploy/tools.txt are not installed")
    done = subprocess.run(
        [TOOLS / "bin" / "python", "-c", script, *words],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def rendered(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that kustomize makes of a folder."""
    done = subprocess.run([tool("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


VALIDATE = """
import json, sys
import jsonschema, kubernetes_validate
found = []
for one in json.load(sys.stdin):
    try:
        kubernetes_validate.validate(one, sys.argv[1], strict=True)
    except kubernetes_validate.ValidationError as error:
        found.append(f"{one['kind']}: {error.message[:200]}")
print(json.dumps(found))
"""

OF_SCHEMA = """
import json, sys
import jsonschema, yaml
found = []
for one, file in json.load(sys.stdin):
    with open(file) as text:
        schema = yaml.safe_load(text)
    if schema.get("kind") == "CustomResourceDefinition":
        schema = schema["spec"]["versions"][-1]["schema"]["openAPIV3Schema"]
    errors = jsonschema.Draft7Validator(schema).iter_errors(one)
    found += [f"{one['kind']}: {error.message[:200]}" for error in errors]
print(json.dumps(found))
"""


def complaints(objects: list[dict[str, Any]], *, version: str = "1.37") -> list[str]:
    """Return what Kubernetes' own schemas, strictly, and those of custom resources say against objects."""
    custom = [one for one in objects if is_custom(one)]
    plain = [one for one in objects if not is_custom(one)]
    found: list[str] = in_tools(VALIDATE, version, given=plain) if plain else []
    if custom:
        with_schemas = [(one, str(schema_of(one))) for one in custom]
        found += in_tools(OF_SCHEMA, given=with_schemas)
    return found


def is_custom(one: dict[str, Any]) -> bool:
    """Whether an object is of an API that Kubernetes does not have itself."""
    group = one["apiVersion"].partition("/")[0]
    return ("." in group and not group.endswith((".k8s.io", "apps", "policy"))) or group.startswith(
        "gateway."
    )


def schema_of(one: dict[str, Any]) -> Path:
    """Return the published schema of a custom resource; skip where there is none here."""
    group, _, version = one["apiVersion"].partition("/")
    kind = one["kind"].lower()
    for name in (f"{group}_{kind}_{version}.json", f"{group}_{kind}s.yaml"):
        if (SCHEMAS / name).exists():
            return SCHEMAS / name
    pytest.skip(f"the published schema of {one['kind']} ({one['apiVersion']}) is not here")
