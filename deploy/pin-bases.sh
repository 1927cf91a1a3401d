#!/usr/bin/env bash
# Write the digests that the Dockerfile's bases have now after their tags, to be read, built and committed:
#   ARG PYTHON=python:3.11@sha256:…
# Again to move on to newer ones. Needs skopeo and a way to the registry; a digest is of the list of all platforms.
#
#   deploy/pin-bases.sh          pins both
#   deploy/pin-bases.sh --check  says whether they are what the registry has, and changes nothing
set -euo pipefail
cd "$(dirname "$0")/.."
REGISTRY=${REGISTRY:-docker://docker.io/library/}
pinned=$(mktemp)
trap 'rm -f "$pinned"' EXIT
while IFS= read -r line; do
  if [[ $line =~ ^ARG\ (PYTHON|PYTHON_SLIM)=([^@]+)(@sha256:[0-9a-f]{64})?$ ]]; then
    tag=${BASH_REMATCH[2]}
    digest=$(skopeo inspect --raw "$REGISTRY$tag" | sha256sum | cut -d' ' -f1)
    line="ARG ${BASH_REMATCH[1]}=$tag@sha256:$digest"
    echo "$line"
  fi
  printf '%s\n' "$line" >>"$pinned"
done <Dockerfile
if [ "${1:-}" = --check ]; then
  diff -u Dockerfile "$pinned"
else
  cat "$pinned" >Dockerfile
fi
