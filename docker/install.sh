#!/bin/sh
# Installs the service from SOURCE into the new environment TARGET; the Dockerfile and a test run it.
set -eu
source=$1
target=$2
python3 -m venv "$target"
if [ -n "${TORCH_INDEX:-}" ]; then
    "$target/bin/pip" install --quiet --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
fi
"$target/bin/pip" install --quiet --no-cache-dir "$source[serve]"
"$target/bin/lookalike" serve --help > "$target/help.txt"
"$target/bin/pip" uninstall --quiet --yes pip
find "$target" -name __pycache__ -type d -prune -exec rm -r {} +
