#!/usr/bin/env bash
# List what an image, or a folder, holds: Debian's packages and Python's, as CycloneDX. Of `make sbom`.
#
#   deploy/sbom.sh SOURCE FILE    SOURCE as syft names them: docker:heed:cpu, oci-archive:FILE, dir:FOLDER
set -euo pipefail
SOURCE=$1 OUT=$2
SYFT=${SYFT:-$(dirname "$0")/../.cache/dist/bin/syft}
mkdir -p "$(dirname "$OUT")"
SYFT_CHECK_FOR_APP_UPDATE=false "$SYFT" scan --quiet "$SOURCE" --output "cyclonedx-json=$OUT"
python3 - "$OUT" <<'PYTHON'
import json, sys
found = {one["name"]: one.get("version", "") for one in json.load(open(sys.argv[1]))["components"] if one["type"] == "library"}
for name in ("heed-server", "heed-client", "torch", "fastapi"):
    if name not in found:
        sys.exit(f"sbom: {sys.argv[1]} does not name {name}, of {len(found)} packages")
print(f"{sys.argv[1]}: {len(found)} packages, torch {found['torch']}, heed-server {found['heed-server']}")
PYTHON
