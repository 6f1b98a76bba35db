#!/usr/bin/env bash
# Sets up gRPC of another maker where it is not there, and prints it: `peers.sh go` the program of go/, `peers.sh node` the folder
# with the packages of node/. grpcio of PyPI comes from xds-tests/peers.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
retry=$PWD/../../../xds-tests/retry.sh
peers=${CARGO_TARGET_DIR:-$PWD/../../../target}/peers
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
# Two stories at once are not to set up the same.
exec 9>"$peers/grpc.lock"
flock 9
case $1 in
go)
    (cd go && bash "$retry" go build -o "$peers/grpc-go" .) >&2
    echo "$peers/grpc-go"
    ;;
node)
    folder=$peers/grpc-node
    if ! cmp -s node/package-lock.json "$folder/installed"; then
        mkdir -p "$folder"
        cp node/package.json node/package-lock.json "$folder"
        (cd "$folder" && bash "$retry" npm ci --ignore-scripts --no-audit --no-fund) >&2
        cp "$folder/package-lock.json" "$folder/installed"
    fi
    echo "$folder"
    ;;
*)
    echo "no peer $1; there are: go node" >&2
    exit 2
    ;;
esac
