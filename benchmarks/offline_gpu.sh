#!/usr/bin/env bash
# Training, CUDA tests and benchmarks on a GPU machine that is lent for half an hour, reaches no network, keeps nothing
# when idle for half a minute, ends a command after ten minutes, and takes 64 MiB a call and returns files of 16.
#
# Here, before anything is lent: `pack ../shared`. Then there, with g=benchmarks/offline_gpu.sh, one call each, which
# carries what stands in brackets:
#   1  $g install && $g keep images-1 && $g smoke            [.offline-gpu/wheels .offline-gpu/images-1]
#   2  $g keep images-2 && $g train cae:cae-natural-gpu natural 17 && $g watch cae-natural-gpu 20
#                                                            [.offline-gpu/images-2]
#   3  $g keep images-3 && $g watch cae-natural-gpu 560      [.offline-gpu/images-3]
#   4  $g watch cae-natural-gpu 450 && $g train decoder_std:decoder_std-natural-gpu natural 4 --init
#      /tmp/runs/cae-natural-gpu && $g watch decoder_std-natural-gpu 70
#   5  $g watch decoder_std-natural-gpu 190; $g collect cae-natural-gpu decoder_std-natural-gpu; $g tests;
#      $g speed --quick
# With more time the aerial prior comes between: `train cae:cae-aerial-gpu aerial 12 --init ...`. What was collected is
# put together here by `cat trained.tar.* | tar x`, and bundled by `python -m benchmarks.bundle`.
set -euo pipefail
cd "$(dirname "$0")/.."

box=.offline-gpu           # what travels there, by name: ignored by git
site=${SITE:-/tmp/site}    # where packages lie there
images=${IMAGES:-/tmp/images}
runs=${RUNS:-/tmp/runs}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
program=("$python" -c "from pyro_vble.cli.app import main; main()")
export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1

# Here: collect what travels.
pack() {
    local shared=${1:?folder of the shared data}
    mkdir -p "$box"
    [ -d "$box/wheels" ] || sh "$shared/gpu/wheels.sh" "$box/wheels"
    # What is imported when it is needed, and that script does not fetch.
    $python -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$box/wheels" \
        pytorch-optimizer scoringrules crepes zarr numcodecs donfig google-crc32c msgspec PyWavelets
    # Two loads of photographs and one of aerial images, each within the limit together with the tree.
    rm -rf "$box"/images-*
    mkdir -p "$box/images-1/natural" "$box/images-2/natural" "$box/images-3/aerial"
    cp "$shared"/data/bsd/train400/* "$box/images-1/natural"
    local photos=("$shared"/data/photos/*)
    cp "${photos[@]:0:160}" "$box/images-1/natural"
    cp "${photos[@]:160}" "$box/images-2/natural"
    cp "$shared"/data/aerial/train/* "$box/images-3/aerial"
    du -sm "$box"/*
}

# There: the packages that it lacks. The library itself is run from the tree.
install() {
    $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$box"/wheels/*.whl
    $python -c "import pyro_vble, torch, arviz, deepinv, compressai, pyro_vble.models
print(pyro_vble.__file__, torch.__version__, torch.cuda.is_available())"
}

# There: images of a load, kept for the next calls.
keep() {
    mkdir -p "$images"
    for load in "$@"; do cp -r "$box/$load"/. "$images"; done
    for folder in "$images"/*; do echo "$folder: $(find "$folder" -type f | wc -l) files"; done
}

# There: a minute that finds out whether the next twenty would be lost.
smoke() {
    "${program[@]}" restore docs/demo.jpg --output /tmp/smoke --problem denoise --samples 10 --steps 20 --device "$device" \
        --draws 0 2> /dev/null
    "${program[@]}" train cae --recipe cae-natural-gpu --data "$images/natural" --output "$runs/smoke" --minutes "${1:-0.7}" \
        --device "$device" 2>&1 | tail -c 300
    tail -n 3 "$runs/smoke/log.csv"
}

# There: a training in a session of its own, which outlives the call; `watch` looks after it.
train() {
    local name=$1 data=$2 minutes=$3
    shift 3
    mkdir -p "$runs"
    setsid nohup "${program[@]}" train "${name%%:*}" --recipe "${name#*:}" \
        --data "$images/$data" --output "$runs/${name#*:}" --minutes "$minutes" --device "$device" "$@" \
        > "$runs/${name#*:}.log" 2>&1 < /dev/null &
}

watch() {
    sleep "${2:-0}"
    tail -n 2 "$runs/$1/log.csv" || true
    tail -c 300 "$runs/$1.log"
    nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader || true
}

# There: weights, cards and logs of trainings into $OUT, in few pieces, each small enough to come back.
collect() { tar cf - -C "$runs" --exclude=training.ckpt "$@" | split -b 15m - "$OUT/trained.tar."; }

# There: the tests that need a GPU, without plug-ins that are not installed.
tests() { $python -m pytest -q -o addopts=--import-mode=importlib -m cuda tests -p no:cacheprovider "$@"; }

# There: the benchmarks, their results into $OUT.
speed() {
    $python -m benchmarks.training --seconds 5 --recipes cae-natural-gpu decoder_std-natural-gpu --device "$device" \
        --output "$OUT/training.json"
    $python -m benchmarks.speed --output "$OUT/speed.json" --device "$device" "$@"
}

if [ "${1:-}" != pack ]; then
    # An installation maps both folders into the package; here they are links.
    ln -sfn ../models pyro_vble/models
    ln -sfn ../guides pyro_vble/guides
fi
[ $# -gt 0 ] || { sed -n '/^# Here/,/^# put together/p' "$0"; exit 2; }
"$@"
