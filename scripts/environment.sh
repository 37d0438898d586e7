# Sourced by the scripts beside it, from the project's root.
# pinned DIR NAME: makes the virtual environment DIR with what requirements/NAME.txt pins, unless it is there already.
# environment DIR NAME: and with requirements/fused.txt, where there is a wheel of it: without, NumPy computes.

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14 python; do
        if [ -n "$candidate" ] &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed, and none was found: install it, or name it in PYTHON" >&2
    exit 1
}

pinned() {
    dir=$1
    pinned=requirements/$2.txt
    install="-m pip install --disable-pip-version-check --no-input --quiet --require-hashes"
    # the stamps are written last, so that an installation that was cut off is done again
    if ! "$dir/bin/python" -c '' 2>/dev/null || ! cmp -s "$pinned" "$dir/installed.txt"; then
        python=$(find_python)
        echo "setting up $dir with $("$python" --version)" >&2
        rm -rf "$dir"
        if ! "$python" -m venv "$dir" >&2; then
            rm -rf "$dir"
            echo "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2
            exit 1
        fi
        "$dir/bin/python" $install -r "$pinned" >&2
        cp "$pinned" "$dir/installed.txt"
    fi
}

environment() {
    pinned "$1" "$2"
    fused=requirements/fused.txt
    if ! cmp -s "$fused" "$dir/installed-fused.txt"; then
        if "$dir/bin/python" $install --only-binary :all: --retries 1 -r "$fused" >&2; then
            cp "$fused" "$dir/installed-fused.txt"
        else
            echo "going on without compiled kernels: llvmlite cannot be installed here, so NumPy computes, more slowly" >&2
        fi
    fi
}
