#!/usr/bin/env bash
# Runs a command that needs a registry: three times at most, for a registry may be out of reach for a moment.
for pause in 5 20; do
    "$@" && exit
    status=$?
    # There is no such command.
    ((status == 127)) && exit "$status"
    echo "again in $pause s: $*" >&2
    sleep "$pause"
done
"$@"
