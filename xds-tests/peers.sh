#!/usr/bin/env bash
# Prints a Python that has the HTTP/2 libraries of PyPI, which is set up when it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
versions=(h2==4.4.1 hpack==4.2.0 grpcio==1.85.1)
folder=${CARGO_TARGET_DIR:-$PWD/target}/peers/python
if ! "$folder/bin/python" -m pip freeze 2>/dev/null | grep -q "^${versions[2]}$"; then
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${versions[@]}" >&2
fi
echo "$folder/bin/python"
