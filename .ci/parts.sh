# Runs the parts of a check one after the other and says what each took. Sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/anabranch/target}"
export CARGO_TERM_COLOR=never
# An error's backtrace would hide what it says; panics keep theirs.
export RUST_LIB_BACKTRACE=0

caches=warm
[ -d "$CARGO_TARGET_DIR/debug/deps" ] || caches=cold
begun=$SECONDS
took=()

# part NAME COMMAND…: runs a command and notes how long it took; ends the check where it fails. Within
# a function that is given here `set -e` has no effect: its commands are chained by `&&`.
part() {
    local name=$1 since=$SECONDS status=0
    shift
    echo "== $name"
    "$@" || status=$?
    took+=("$(printf '%6d s  %s' $((SECONDS - since)) "$name")")
    if [ "$status" -ne 0 ]; then
        took+=("          which failed, with exit code $status")
        say_times
        exit "$status"
    fi
}

# Says what each part took.
say_times() {
    echo "== what each part took ($caches caches)"
    printf '%s\n' "${took[@]}"
    printf '%6d s  in all\n' $((SECONDS - begun))
}
