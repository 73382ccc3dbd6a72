#!/bin/sh
# Makes the folder that tools/gpu/train.sh trains from: sh tools/gpu/pack.sh PHOTOGRAPHS HDRI OUT.
# PHOTOGRAPHS is a folder of hands.jsonl, or what tools/pack_photographs.py made of it at 128 px; HDRI a folder of panoramas.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -eq 3 ] || { echo "pack.sh: expected PHOTOGRAPHS, HDRI and OUT, got $# arguments; see the top of tools/gpu/pack.sh" >&2; exit 2; }
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
photographs=$1
if [ -f "$1/hands.jsonl" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    photographs=$work
    "${PYTHON:-python3}" "$root/tools/pack_photographs.py" "$1" "$photographs" --size 128
fi
"${PYTHON:-python3}" "$root/tools/gpu/packing.py" "$photographs" "$2" "$3"
