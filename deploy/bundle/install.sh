#!/bin/sh
# Installs FedMentor from this folder, without a network:
#
#   sh install.sh FOLDER          FOLDER/bin/fedmentor; PYTHON=... chooses the interpreter
#   sh install.sh --images        the container images instead, into the engine of this machine
#
# Checks every file first, and leaves nothing behind where it fails.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

refuse() {
    echo "error: $1" >&2
    [ $# -lt 2 ] || echo "  try: $2" >&2
    exit 3
}

[ $# -eq 1 ] || { echo "usage: sh install.sh FOLDER | --images" >&2; exit 2; }
(cd "$here" && sha256sum --check --strict --quiet SHA256SUMS) || refuse "this bundle is not as it was made" "copy it again"

if [ "$1" = --images ]; then
    [ -f "$here/images.tar" ] || refuse "this bundle has no container images"
    docker load --input "$here/images.tar" || refuse "the container engine did not take the images" "see what it says above"
    echo "now, in $here: FEDMENTOR_TAG=$(cat "$here/TAG") python3 deploy/containers.py up"
    exit 0
fi

wanted=$(cat "$here/PYTHON")
python=${PYTHON:-python3}
found=$("$python" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], sys.platform, platform.machine())') || found=none
[ "$found" = "$wanted" ] || refuse "this bundle is for Python $wanted, and $python is $found" "set PYTHON to another interpreter"
[ ! -e "$1" ] || refuse "$1 exists" "give a folder that does not"
trap 'code=$?; [ $code -eq 0 ] || rm -rf "$1"; exit $code' EXIT
trap 'exit 130' INT TERM
"$python" -m venv "$1" || refuse "$python cannot make an environment" "install python3-venv"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$here/wheels" \
    'fedmentor[node,teacher,study]' || refuse "the packages were not installed" "see what pip says above"
cp "$here/teacher.mar" "$1/teacher.mar"
echo "installed: $1/bin/fedmentor; a teacher: $1/bin/fedmentor teacher serve --archive $1/teacher.mar"
