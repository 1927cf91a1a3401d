#!/usr/bin/env bash
# Build the image and try it, as root, on a machine that has neither docker nor a registry: Debian's packages stand in
# for the bases, buildah builds the Dockerfile as it is, podman runs what came out. It leaves nothing behind.
#
#   deploy/try-image.sh              both targets; the cpu one is run
#   TARGETS=cpu deploy/try-image.sh  that one alone
#   KEEP=1 deploy/try-image.sh       leaves the working folder, whose images podman --root FOLDER/storage has
#
# Needs debootstrap, buildah, podman, runc and curl (apt-get install). BUILD_FLAGS are further words for buildah,
# MIRROR is Debian's, WORK the working folder: 10 GB, not on a tmpfs. pip inside is told what pip here is told, by a
# file that is mounted while it runs and is in no layer.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGETS=${TARGETS:-cpu cuda}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SUITE=bookworm # whose Python is 3.11, as the bases' is
BUILD_SECONDS=${BUILD_SECONDS:-2400}
START_SECONDS=${START_SECONDS:-120}
WORK=${WORK:-$(mktemp -d /var/tmp/heed-image.XXXXXX)}
STORE=(--root "$WORK/storage" --runroot "$WORK/run")
NAME=heed-tried-$$

say() { echo "== $*"; }
fail() { echo "try-image: $*" >&2; exit 1; }
pod() { podman "${STORE[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }

[ "$(id -u)" = 0 ] || fail "run it as root: debootstrap and containers without a daemon need it"
for program in debootstrap buildah podman runc curl; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install debootstrap buildah podman runc curl"
done

tidy() {
  pod rm --force --time 0 "$NAME" >/dev/null 2>&1 || true
  [ -n "${KEEP:-}" ] && { say "kept: $WORK"; return; }
  umount --recursive "$WORK/storage/overlay" 2>/dev/null || true
  rm -rf --one-file-system "$WORK"
}
trap tidy EXIT

base() { # NAME PACKAGES: an image of Debian and its Python, called as what the Dockerfile starts from
  local name=$1 packages=$2 root=$WORK/root container
  pod image exists "docker.io/library/$name" && return # of a run with KEEP
  mkdir -p "$WORK/debs"
  debootstrap --variant=minbase --include="$packages" --cache-dir="$WORK/debs" "$SUITE" "$root" "$MIRROR" \
    >"$WORK/debootstrap.log" 2>&1 || { tail "$WORK/debootstrap.log" >&2; fail "debootstrap"; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  ln -s /usr/bin/python3 "$root/usr/local/bin/python"
  container=$(buildah "${STORE[@]}" from scratch)
  buildah "${STORE[@]}" add --quiet "$container" "$root" / >/dev/null
  buildah "${STORE[@]}" config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 --cmd python "$container"
  buildah "${STORE[@]}" commit --quiet --rm --format docker "$container" "docker.io/library/$name" >/dev/null
  rm -rf --one-file-system "$root"
  say "$name stands in, of $(bytes "docker.io/library/$name")"
}

bytes() { numfmt --to=si --suffix=B "$(pod image inspect --format '{{.Size}}' "$1")"; }

pip_flags() { # what pip here is told, as a file; local folders that it names are mounted where they are
  python3 - "$WORK/pip.conf" <<'PYTHON'
import pathlib, re, shlex, subprocess, sys
told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
found = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", told, re.M))
for name in ("user", "target", "prefix", "require-virtualenv", "no-build-isolation"):
    found.pop(name, None)
lines = [f"{name} = " + "\n    ".join(value.split("\\n" if "\\n" in value else None)) for name, value in found.items()]
pathlib.Path(sys.argv[1]).write_text("\n".join(["[global]", *lines, ""]))
flags = [f"--volume={sys.argv[1]}:/etc/pip.conf:ro"]
paths = set()
for word in " ".join(found.values()).replace("\\n", " ").split():
    path = pathlib.Path(word.removeprefix("file://"))
    if path.is_absolute() and path.exists():  # an index links to files beside it
        paths.add(path.parent if word.startswith("file://") else path)
flags += [f"--volume={path}:{path}:ro" for path in sorted(paths)]
print(shlex.join(flags))
PYTHON
}

build() { # TARGET
  local target=$1 began=$SECONDS flags
  flags=$(pip_flags)
  # shellcheck disable=SC2086  # both are words
  timeout "$BUILD_SECONDS" buildah "${STORE[@]}" bud --isolation chroot --network host --pull-never --format docker \
    --target "$target" --tag "localhost/heed:$target" $flags ${BUILD_FLAGS:-} \
    --build-arg SOURCE="$(git config --get remote.origin.url || echo unknown)" \
    --build-arg VERSION="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)" \
    --build-arg REVISION="$(git rev-parse HEAD)" --build-arg CREATED="$(date -u +%Y-%m-%dT%H:%M:%SZ)" . \
    >"$WORK/build-$target.log" 2>&1 || { tail -n 40 "$WORK/build-$target.log" >&2; fail "building $target"; }
  say "$target is built in $((SECONDS - began)) s, $(bytes "localhost/heed:$target")"
  inspect "$target"
}

inspect() { # TARGET: its labels, each with a value and of this commit, and who it runs as
  buildah "${STORE[@]}" inspect --type image "localhost/heed:$1" >"$WORK/config.json"
  python3 - "$WORK/config.json" "$(git rev-parse HEAD)" <<'PYTHON'
import json, sys
config = json.load(open(sys.argv[1]))["OCIv1"]["config"]
labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
for name in ("title", "description", "licenses", "source", "version", "revision", "created", "base.name"):
    assert labels.get(name), f"the label {name} is empty"
    print(f"   {name}: {labels[name]}")
assert labels["revision"] == sys.argv[2], "it is labelled as of another commit"
assert config["User"] == "10001:10001" and config["StopSignal"] == "SIGTERM", config
PYTHON
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# As deploy/ runs it: no root, no capabilities, nothing to write but /tmp. Open files are as many as here, which there
# may be no right to raise; podman complains where there is no systemd to time HEALTHCHECK, which is run by hand.
start() { # PORT WORDS...: the cpu image
  local port=$1
  shift
  pod run --detach --name "$NAME" --network host --read-only --tmpfs /tmp --cap-drop ALL --user 10001 \
    --security-opt no-new-privileges --ulimit nofile="$(ulimit -n):$(ulimit -n)" --ulimit nproc=4096:4096 \
    --env HEED_HOST=127.0.0.1 "$@" >"$WORK/run.log" 2>&1 || { cat "$WORK/run.log" >&2; fail "it does not run"; }
  local until=$((SECONDS + START_SECONDS))
  until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do
    [ "$(pod inspect --format '{{.State.Running}}' "$NAME")" = true ] || { pod logs "$NAME" >&2; fail "it has ended"; }
    [ "$SECONDS" -lt "$until" ] || { pod logs "$NAME" >&2; fail "it does not answer after $START_SECONDS s"; }
    sleep 0.2
  done
}

healthy() { # what HEALTHCHECK of the image is, run by the engine
  pod healthcheck run "$NAME" || fail "HEALTHCHECK fails where $1"
  say "HEALTHCHECK finds the server where $1"
}

stop() { # SIGTERM; what was accepted is answered, and the status is 0
  pod stop --time 40 "$NAME" >/dev/null
  local status
  status=$(pod inspect --format '{{.State.ExitCode}}' "$NAME")
  [ "$status" = 0 ] || { pod logs "$NAME" >&2; fail "SIGTERM ended it with $status"; }
  pod rm "$NAME" >/dev/null
}

try() {
  local port
  port=$(free_port)
  start "$port" --env HEED_PORT="$port" localhost/heed:cpu
  healthy "HEED_PORT says"
  local answer # the README's first question
  answer=$(sed -n '/```bash/,/```/p' README.md | sed -n '/^curl.*attend/,/^```/p' | sed '/^```/,$d' |
    sed "s/localhost:8000/127.0.0.1:$port/g; s/^curl/curl --fail-with-body/" | bash)
  python3 -c 'import json, sys; print("   z of", len(json.load(sys.stdin)["outputs"][0]["z"]), "tokens")' <<<"$answer"
  pod exec "$NAME" sh -c '! touch /opt/heed/x 2>/dev/null && grep -q "^CapEff:.0*$" /proc/self/status && [ "$(id -u)" = 10001 ]' ||
    fail "it may write, has capabilities or is not uid 10001"
  pod exec "$NAME" heed --version
  # A request that is under way when SIGTERM comes is answered.
  printf '{"inputs": [%s], "outputs": ["weights_mean"], "layers": "all"}' \
    "$(printf '{"text": "%s"},' $(seq 1 400) | sed 's/,$//')" >"$WORK/body.json"
  curl --silent --fail-with-body --output "$WORK/reply.json" -H 'content-type: application/json' \
    --data-binary "@$WORK/body.json" "http://127.0.0.1:$port/v1/models/minilm/attend" &
  local asking=$!
  sleep 0.05
  stop
  wait "$asking" || fail "a request that was under way at SIGTERM was not answered"
  say "README's curl is answered; SIGTERM drains, and the status is 0"
  port=$(free_port)
  start "$port" localhost/heed:cpu serve --port "$port"
  healthy "--port says"
  stop
}

bill() { # TARGET: what it holds, by syft where it is to be had (`make .cache/dist/ready`)
  local syft=${SYFT:-.cache/dist/bin/syft} root
  [ -x "$syft" ] || { say "no SBOM of $1: syft is not installed"; return; }
  root=$(pod image mount "localhost/heed:$1")
  SYFT=$syft deploy/sbom.sh "dir:$root" "$WORK/$1.cdx.json"
  pod image unmount "localhost/heed:$1" >/dev/null
}

main() {
  say "working in $WORK"
  base python:3.11-slim python3,python3-venv,ca-certificates
  base python:3.11 python3,python3-venv,python3-dev,ca-certificates,gcc,libc6-dev
  for target in $TARGETS; do build "$target" && bill "$target"; done
  case " $TARGETS " in *" cpu "*) try ;; esac
  say "all is well"
}

main
exit
