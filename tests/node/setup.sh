#!/bin/sh
# Fetches node-postgres with its cursors, and a browser with what drives it and looks at its pages. Safe to
# repeat.
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
    # The browser is packed with the libraries that it needs, which it unpacks where it finds itself on a
    # bare machine, as this variable says.
    (cd "$cache" && TMPDIR=$cache AWS_LAMBDA_JS_RUNTIME=nodejs22.x node --input-type=module -e \
        'await (await import("@sparticuz/chromium")).default.executablePath()') >&2
    cat >"$cache/browser" <<EOF
#!/bin/sh
LD_LIBRARY_PATH=$cache/al2023/lib exec "$cache/chromium" "\$@"
EOF
    chmod +x "$cache/browser"
    cp "$here/package.json" "$installed"
fi
echo "$cache"
