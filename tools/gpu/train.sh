#!/bin/sh
# Trains on a GPU from this repository and the folder that tools/gpu/pack.sh made: sh tools/gpu/train.sh DATA OUT [flags of train.py].
# Needs Python with torch, timm, lightning, numba, numpy, scipy, OpenCV, rich, pyyaml, matplotlib and tensorboard; nothing is installed.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$root/tools/gpu/train.py" "$@"
