#!/usr/bin/env bash
# Prints a folder whose node_modules has what stories need of npm (the gRPC-Web client, tokens), which is set up when it is not
# there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
packages=(grpc-web@2.1.1 xhr2@0.2.1 jose@6.2.17)
folder=${CARGO_TARGET_DIR:-$PWD/target}/peers/web
missing=0
for package in "${packages[@]}"; do
    [ -f "$folder/node_modules/${package%@*}/package.json" ] || missing=1
done
if ((missing)); then
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts --silent "${packages[@]}" >&2
fi
echo "$folder"
