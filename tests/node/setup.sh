#!/bin/sh
# Fetches node-postgres with its cursors, and what drives a browser and looks at pages. Safe to repeat.
#
#   tests/node/setup.sh               prints the folder that has them
#   ANABRANCH_NODE_CACHE=DIR …        another place than ~/.cache/anabranch/node
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${ANABRANCH_NODE_CACHE:-$HOME/.cache/anabranch/node}
# A copy of what is wanted, written only after a complete install.
installed=$cache/installed.json

if ! cmp -s "$here/package.json" "$installed"; then
    mkdir -p "$cache"
    rm -f "$installed"
    cp "$here/package.json" "$cache/package.json"
    npm install --prefix "$cache" --no-package-lock --no-audit --no-fund --silent >&2
    cp "$here/package.json" "$installed"
fi
echo "$cache"
