#!/bin/sh
# What there is to see on a machine with a GPU and no network, in seven minutes at the most.
#
#   gpu/run.sh [--dry] [FOLDER]
#
# Run in the folder that `make gpu-bundle` makes; results go to FOLDER, ./results by default. Every section has
# a time limit of its own, and none needs another: one that fails or takes too long costs nothing but itself.
# --dry: on a machine without a GPU, to see that everything is there and starts.
set -u
cd "$(dirname "$0")/.."
device=cuda
if [ "${1:-}" = --dry ]; then device=cpu; shift; fi
results=${1:-results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
export OUT="$results" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8
export PYTHONPATH="$PWD:$PWD/client:$PWD/packages"
python=${PYTHON:-python3}
: > "$results/sections.jsonl"

section() { # name, seconds, command
    name=$1 limit=$2
    shift 2
    began=$(date +%s)
    timeout -k 5 "$limit" "$@" > "$results/$name.txt" 2>&1
    status=$?
    took=$(($(date +%s) - began))
    echo "{\"section\": \"$name\", \"status\": $status, \"seconds\": $took, \"limit\": $limit}" >> "$results/sections.jsonl"
    echo "== $name: status $status after $took s of $limit"
    tail -n 12 "$results/$name.txt"
}

section machine 15 sh -c "nvidia-smi || true; $python -c 'import torch, platform; print(torch.__version__, torch.version.cuda, platform.python_version(), torch.cuda.is_available() and torch.cuda.get_device_name())'"
section packages 20 "$python" gpu/unpack.py wheels packages
section look 75 "$python" -m benchmarks.gpu look --device $device
section tests 120 "$python" -m pytest tests/gpu --noconftest -p no:cacheprovider -o addopts= -o timeout=60 --import-mode=importlib -W default -q --maxfail=25 --tb=short --durations=8
if [ $device = cuda ]; then
    section layer 50 "$python" -m benchmarks.gpu layer --quick --dtypes bfloat16
    section models 60 "$python" -m benchmarks.gpu models --quick
else
    section layer 60 "$python" -m benchmarks.gpu layer --quick --smallest --dtypes float32 --device cpu
    section models 90 "$python" -m benchmarks.gpu models --quick --device cpu
fi
connections=1,8,32,128
[ $device = cuda ] || connections=1,8
section server-1 40 "$python" gpu/serve.py --device $device --workers 1 --connections $connections
section server-8 40 "$python" gpu/serve.py --device $device --workers 8 --connections $connections
echo "results are in $results"
