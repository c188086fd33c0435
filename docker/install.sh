#!/bin/sh
# install.sh SOURCE TARGET: the service, in a new environment. The Dockerfile and a test run it.
set -eu
export PYTHONDONTWRITEBYTECODE=1
source=$1
target=$2
python3 -m venv "$target"
if [ -n "${TORCH_INDEX:-}" ]; then
    "$target/bin/pip" install --quiet --no-cache-dir --no-compile --index-url "$TORCH_INDEX" torch torchvision
fi
"$target/bin/pip" install --quiet --no-cache-dir --no-compile "$source[serve]"
"$target/bin/lookalike" serve --help > "$target/help.txt"
rm -r "$target"/bin/pip* "$target"/lib/python*/site-packages/pip "$target"/lib/python*/site-packages/pip-*
find "$target" -name __pycache__ -type d -prune -exec rm -r {} +
