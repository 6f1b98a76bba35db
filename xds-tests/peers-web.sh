#!/usr/bin/env bash
# Prints a folder whose node_modules has what stories need of npm (the gRPC-Web client, tokens), which is set up when it is not
# there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages=(grpc-web@2.1.1 xhr2@0.2.1 jose@6.2.17)
folder=${CARGO_TARGET_DIR:-$PWD/target}/peers/web
mkdir -p "$folder"
# Two stories at once are not to set up the same.
exec 9>"$folder.lock"
flock 9
if [[ $(cat "$folder/installed" 2>/dev/null) != "${packages[*]}" ]]; then
    bash xds-tests/retry.sh npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts --silent "${packages[@]}" >&2
    echo "${packages[*]}" >"$folder/installed"
fi
echo "$folder"
