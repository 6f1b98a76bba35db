#!/usr/bin/env bash
# Prints a folder whose node_modules has the gRPC-Web client of npm, which is set up when it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages=(grpc-web@2.1.1 xhr2@0.2.1)
folder=${CARGO_TARGET_DIR:-$PWD/target}/peers/web
if ! [ -f "$folder/node_modules/grpc-web/package.json" ] || ! [ -f "$folder/node_modules/xhr2/package.json" ]; then
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts --silent "${packages[@]}" >&2
fi
echo "$folder"
