#!/usr/bin/env bash
# Pack the tree and the wheels that a machine with a CUDA torch lacks, for `make gpu` without network:
#
#   tools/gpu_bundle.sh OUT.tar [PACKAGES.txt]
#   there: tar xf OUT.tar && cd soarbench && make gpu PYTHON=python3
#
# PACKAGES.txt is `pip freeze` of that machine; without it torch, torchvision, numpy and what these
# need are taken to be there. PYTHON_VERSION (3.12) is that machine's. Exit code 2 over 64 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: tools/gpu_bundle.sh OUT.tar [PACKAGES.txt]}
there=${2:-}
python=${PYTHON:-.venv/bin/python}
limit=64000000

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/soarbench"
# Results are not needed there; the record that is written there is brought back by hand.
git ls-files -z | grep -zv '^results/' | xargs -0 cp -P --parents -t "$folder/soarbench"
"$python" tools/gpu_wheels.py "$folder/soarbench/wheels" "${PYTHON_VERSION:-3.12}" "$there"
git rev-parse HEAD > "$folder/soarbench/wheels/commit"
# xz on plain files: wheels of their own are deflated and would stay twice as large.
tar -C "$folder" -c soarbench | xz -T0 -6 > "$folder/bundle.tar"
size=$(stat -c %s "$folder/bundle.tar")
if [ "$size" -gt "$limit" ]; then
    largest=$(cd "$folder/soarbench/wheels" && ls -S ./*.whl | head -3 | xargs -n1 basename | cut -d- -f1 | paste -sd, -)
    echo "gpu_bundle: $((size / 1000000)) MB, over $((limit / 1000000)); the largest wheels are $largest: say by PACKAGES.txt (pip freeze) what that machine has" >&2
    exit 2
fi
mv "$folder/bundle.tar" "$out"
echo "$out: $((size / 1000000)) MB, $(find "$folder/soarbench/wheels" -name '*.whl' | wc -l) wheels"
