#!/bin/sh
# venv.sh DIRECTORY: makes a virtual environment with layerfs (editable) and its development tools, unless it is up to
# date. The editable form is a plain path: the other one loads a finder at each start of Python, as long as some commands
# take. One that was interrupted half-way, or whose interpreter is gone, is made anew. PYTHON names the interpreter.
set -eu
venv=$1
stamp=$venv/.stamp
state=$venv/.unfinished

usable() { [ ! -e "$state" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; }

if usable; then
	[ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt "$0" ] && exit 0
else
	rm -rf "$venv"
fi
echo "layerfs: installing Python packages into $venv"
mkdir -p "$venv"
: >"$state"
[ -e "$venv/bin/pip" ] || "${PYTHON:-python3}" -m venv "$venv"
log=$venv/pip.log
if ! "$venv/bin/pip" install -q --use-pep517 --disable-pip-version-check --root-user-action=ignore --config-settings editable_mode=compat -e '.[dev]' >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
grep -v '^WARNING: Location ' "$log" >&2 || true # find-links that do not exist here
rm -f "$state" "$log"
: >"$stamp"
