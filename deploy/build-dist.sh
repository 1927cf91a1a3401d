#!/usr/bin/env bash
# Make the distributions of a release, server and client, as sdist and wheel, in dist/ or the folder that is named.
#
#   deploy/build-dist.sh [FOLDER]        or `make dist`, which also installs what this needs
#
# The server's wheel has compiled code. It is linked against the C library of an older Debian, fetched by apt into a
# folder of its own, so that the wheel runs wherever torch's does (glibc 2.28); auditwheel reads the symbols and gives
# it that name, or refuses. Where apt is not to be had, SYSROOT names a folder with such a library, or is "/" for this
# machine's own, whose glibc then names the wheel. PYTHON has the tools of deploy/dist-tools.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=$(realpath -m "${1:-dist}")
PYTHON=$(realpath -s "${PYTHON:-.cache/dist/bin/python}")
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SUITE=${SUITE:-bullseye}
GLIBC=${GLIBC:-2_28}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

say() { echo "== $*"; }

sysroot() { # fetch the C library and its headers into $WORK/sysroot
  local apt=$WORK/apt root=$WORK/sysroot arch link target
  arch=$(dpkg --print-architecture)
  mkdir -p "$apt"/{lists/partial,cache/archives/partial} "$root"
  touch "$apt/status"
  echo "deb $MIRROR $SUITE main" >"$apt/sources.list"
  local told=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
    -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" -o "APT::Architectures=$arch" -o APT::Sandbox::User=root)
  apt-get "${told[@]}" update
  (cd "$apt" && apt-get "${told[@]}" download "libc6:$arch" "libc6-dev:$arch" "linux-libc-dev:$arch")
  for package in "$apt"/*.deb; do dpkg -x "$package" "$root"; done
  find "$root" -type l | while read -r link; do # what leads to / would lead to this machine's
    target=$(readlink "$link")
    case $target in /*) ln -sfr "$root$target" "$link" ;; esac
  done
}

compiler() { # words that compile and link against the sysroot; gcc would prefer the libraries beside itself
  local root=$1 libraries
  libraries=$root/usr/lib/$(gcc -print-multiarch)
  echo "gcc --sysroot=$root -B$libraries -L$libraries -L$root/lib/$(gcc -print-multiarch)"
}

if [ "${SYSROOT:-}" != / ]; then
  [ -n "${SYSROOT:-}" ] || { sysroot && SYSROOT=$WORK/sysroot; }
  CC=$(compiler "$SYSROOT")
  export CC LDSHARED="$CC -shared"
fi

rm -rf "$OUT"
mkdir -p "$OUT" "$WORK/built"
for project in . client; do
  # The wheel is built of the sdist, which so has all that is needed; and of a copy, without what was built here.
  mkdir -p "$WORK/tree"
  git ls-files -z -- "$project" | xargs -0 cp --parents -P -t "$WORK/tree"
  "$PYTHON" -m build --outdir "$WORK/built" "$WORK/tree/$project" >"$WORK/build.log" 2>&1 ||
    { tail -n 30 "$WORK/build.log" >&2; exit 1; }
done
for wheel in "$WORK"/built/heed_server-*.whl; do
  missing=$("$PYTHON" -m zipfile -l "$wheel" | grep -c '/_native\..*so') || true
  [ "$missing" = 2 ] || { echo "build-dist: compiled code is missing in $wheel: $(tail -n 5 "$WORK/build.log")" >&2; exit 1; }
  if [ "${SYSROOT:-}" = / ]; then
    PATH=$(dirname "$PYTHON"):$PATH "$PYTHON" -m auditwheel repair --strip --wheel-dir "$OUT" "$wheel" >/dev/null
  else
    PATH=$(dirname "$PYTHON"):$PATH "$PYTHON" -m auditwheel repair --strip --only-plat --plat "manylinux_${GLIBC}_$(uname -m)" \
      --wheel-dir "$OUT" "$wheel" >/dev/null
  fi
done
cp "$WORK"/built/*.tar.gz "$WORK"/built/heed_client-*.whl "$OUT"
"$PYTHON" -m twine check --strict "$OUT"/*
"$PYTHON" -m auditwheel show "$OUT"/heed_server-*.whl
ls -l "$OUT"
