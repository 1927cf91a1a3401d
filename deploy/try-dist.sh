#!/usr/bin/env bash
# Install what `make dist` made into empty environments, the wheel into one and the sdist into another, with whatever
# they depend on from pip's index; serve from a folder that has packages called as ours are; ask.
#
#   deploy/try-dist.sh [FOLDER]          of the distributions, dist/ otherwise; PYTHON makes the environments
set -euo pipefail
ROOT=$(realpath "$(dirname "$0")/..")
DIST=$(realpath "${1:-$ROOT/dist}")
PYTHON=${PYTHON:-python3}
START_SECONDS=${START_SECONDS:-120}
WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/heed-dist.XXXXXX")
SERVER=
tidy() {
  [ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true
  rm -rf "$WORK"
}
trap tidy EXIT
fail() { echo "try-dist: $*" >&2; exit 1; }

HERE=$WORK/here
for name in models service heed_client torch numpy; do
  mkdir -p "$HERE/$name"
  echo "raise SystemExit('a stranger: $name')" >"$HERE/$name/__init__.py"
done

try() { # KIND: what the files' names end with
  local kind=$1 bin=$WORK/$1/bin until
  "$PYTHON" -m venv "$WORK/$kind"
  "$bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --constraint "$ROOT/constraints.txt" \
    "$DIST"/heed_server-*"$kind" "$DIST"/heed_client-*"$kind"
  cd "$HERE"
  "$bin/python" -I -c 'from models.compiled.structures import NUMBERS, STRUCTURES
from models.c_library import load
from service.wire.compiled.native import native
assert native() and load("models.compiled._native", STRUCTURES, NUMBERS), "no compiled code"'
  "$bin/python" -I -m models.training.demo repository
  "$bin/heed" serve --port 0 --http-workers 2 >"$WORK/said" 2>"$WORK/log" &
  SERVER=$!
  until=$((SECONDS + START_SECONDS))
  until grep -q ' on http' "$WORK/said"; do
    kill -0 "$SERVER" 2>/dev/null && [ "$SECONDS" -lt "$until" ] || { cat "$WORK/log" >&2; fail "$kind does not serve"; }
    sleep 0.2
  done
  "$bin/heed" attend minilm "the bank of the river" --url "$(sed 's/.* on //' "$WORK/said")"
  kill -TERM "$SERVER"
  wait "$SERVER" || fail "$kind: SIGTERM ended it with $?"
  SERVER=
  rm -rf "${WORK:?}/$kind"
  echo "== $kind: installed, compiled, served, drained"
}

try .whl
try .tar.gz
