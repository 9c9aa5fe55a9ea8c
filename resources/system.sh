#!/usr/bin/env bash
# Called by make: is what pip cannot bring there? Silent when it is. Nothing is installed unless we
# are root; otherwise the one command that does it is printed.
PYTHON="${PYTHON:-python3}"
missing=()

if [ -x .venv/bin/python ]; then
    : # it was good enough when the environment was made
elif ! command -v "$PYTHON" >/dev/null; then
    echo "There is no $PYTHON here. Install Python 3.11 or newer, or say where it is: make PYTHON=..." >&2
    exit 1
elif ! found=$("$PYTHON" -c 'import sys
print("%d.%d" % sys.version_info[:2])
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'); then
    echo "Python 3.11 to 3.14 is needed, and $PYTHON is $found. Say where another is: make PYTHON=..." >&2
    exit 1
elif ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=("python3-venv")
    needed=1
fi

# Library of Qt : package on Debian and its kin. The first six are needed in any case, the others
# for a screen.
libraries="libGL.so.1:libgl1 libEGL.so.1:libegl1 libglib-2.0.so.0:libglib2.0-0
    libxkbcommon.so.0:libxkbcommon0 libfontconfig.so.1:libfontconfig1 libdbus-1.so.3:libdbus-1-3"
screen="libxkbcommon-x11.so.0:libxkbcommon-x11-0 libxcb-cursor.so.0:libxcb-cursor0
    libxcb-icccm.so.4:libxcb-icccm4 libxcb-keysyms.so.1:libxcb-keysyms1
    libxcb-shape.so.0:libxcb-shape0"

ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
if [ "$(uname -s)" = Linux ] && [ -x "$ldconfig" ]; then
    known=$("$ldconfig" -p)
    for pair in $libraries; do
        [[ "$known" == *"${pair%%:*} "* ]] || { missing+=("${pair#*:}"); needed=1; }
    done
    for pair in $screen; do
        [[ "$known" == *"${pair%%:*} "* ]] || missing+=("${pair#*:}")
    done
fi
[ ${#missing[@]} -eq 0 ] && exit 0

install="apt-get install --yes --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "Missing on this system (Debian's names): ${missing[*]}" >&2
elif [ "$(id -u)" -eq 0 ]; then
    echo "Installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be old or absent: try as it is, then with new ones.
    $install --quiet --quiet >/dev/null 2>&1 && exit 0
    apt-get update --quiet --quiet >/dev/null && $install --quiet --quiet >/dev/null && exit 0
    echo "That did not work. By hand: $install" >&2
else
    echo "Libraries that the window needs are missing. This installs them: sudo $install" >&2
fi
exit ${needed:-0}
