#!/usr/bin/env bash
# Prints a Python that has the libraries of PyPI that stories need (HTTP/2, gRPC, Envoy's protos, tokens), which is set up when
# it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
versions=(h2==4.4.1 hpack==4.2.0 grpcio==1.85.1 xds-protos==1.85.0 PyJWT==2.15.1 cryptography==48.0.0)
folder=${CARGO_TARGET_DIR:-$PWD/target}/peers/python
mkdir -p "$(dirname "$folder")"
# Two stories at once are not to set up the same.
exec 9>"$folder.lock"
flock 9
if [[ ! -x $folder/bin/python || $(cat "$folder/installed" 2>/dev/null) != "${versions[*]}" ]]; then
    python3 -m venv "$folder" >&2
    bash xds-tests/retry.sh "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${versions[@]}" >&2
    echo "${versions[*]}" >"$folder/installed"
fi
echo "$folder/bin/python"
