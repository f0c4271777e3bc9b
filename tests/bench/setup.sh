#!/bin/sh
# Makes the virtual environment that peers.py runs in. Safe to repeat: it does
# nothing when the environment already holds what requirements.txt pins.
#
#   tests/bench/setup.sh            prints the path of the environment's python
#   ANABRANCH_BENCH_VENV=DIR …      another place than ~/.cache/anabranch/venv
set -eu

here=$(cd "$(dirname "$0")" && pwd)
venv=${ANABRANCH_BENCH_VENV:-$HOME/.cache/anabranch/venv}
requirements=$here/requirements.txt
# A copy of the pins, written only after a complete install: a broken-off one
# leaves no copy and is repaired by the next run.
installed=$venv/installed-requirements.txt

if [ -x "$venv/bin/python" ] && cmp -s "$requirements" "$installed"; then
    echo "$venv/bin/python"
    exit 0
fi

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || {
    echo "setup.sh: \`$python\` not found; install Python 3.11 or set PYTHON" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" >&2
rm -f "$installed"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
cp "$requirements" "$installed"
echo "$venv/bin/python"
