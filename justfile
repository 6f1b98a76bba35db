# The recipes are the steps of `.ci/run`, which needs no `just`; what is beside them stays out of CI for its time.

# Lists the recipes.
default:
    @just --list

# Compiles everything, without tests.
check:
    cargo check --workspace --all-targets

fmt:
    cargo fmt --all

lint:
    bash .ci/run lint

test:
    bash .ci/run build test

# Runs the tests, and the cases of the stories, that have this word in their name.
test-one name:
    cargo test --workspace -- {{ name }}

doc:
    bash .ci/run doc

deny:
    bash .ci/run deny

# Generates docs/extensions.md; fails when it was not up to date.
gen:
    bash .ci/run build
    "${CARGO_TARGET_DIR:-target}/debug/gen-docs"
    git diff --exit-code -- docs

# Loads every example with Outrigger and with Envoy.
examples:
    bash .ci/run examples

# Starts the quickstart; Ctrl-C ends it.
quickstart:
    bash .ci/run quickstart

# Starts a mesh; Ctrl-C ends it.
mesh:
    bash .ci/run mesh

# Starts an API gateway; Ctrl-C ends it.
api-gateway:
    bash .ci/run api-gateway

# Reviews changed snapshots (needs cargo-insta).
snap:
    cargo insta review

# Runs a fuzz target of proxy/fuzz for some seconds.
fuzz target seconds="60":
    bash proxy/fuzz/run {{ target }} {{ seconds }}

# Compares our HPACK with PyPI's: far more header blocks than the tests keep.
hpack:
    cargo test -p outrigger --test hpack -- --ignored --nocapture

# Measures a release build against Envoy; BENCH is the folder of bench.py.
bench BENCH *args:
    cargo build --release -p outrigger
    python3 {{ BENCH }}/bench.py --peer envoy="$(bash xds-tests/envoy.sh)" --peer outrigger="${CARGO_TARGET_DIR:-target}/release/outrigger" {{ args }}

# Measures what 10,000 idle keep-alive connections cost a release build, in memory.
idle *args:
    cargo build --release -p outrigger
    python3 xds-tests/idle.py "${CARGO_TARGET_DIR:-target}/release/outrigger" {{ args }}

# Measures what 10,000 clusters from a control plane cost a release build, beside Envoy.
bench-xds *args:
    cargo build --release -p outrigger
    cargo run -p outrigger-xds-tests --bin bench-xds -- {{ args }} envoy="$(bash xds-tests/envoy.sh)" outrigger="${CARGO_TARGET_DIR:-target}/release/outrigger"

# Measures what the filters of an API gateway, and 10,000 endpoints of one cluster, cost a release build, beside Envoy.
bench-filters *args:
    cargo build --release -p outrigger
    ulimit -n "$(ulimit -Hn)" && cargo run -p outrigger-xds-tests --bin bench-filters -- {{ args }} envoy="$(bash xds-tests/envoy.sh)" outrigger="${CARGO_TARGET_DIR:-target}/release/outrigger"

# Plays thirty upstreams in trouble to a release build and to Envoy, five seeds of a minute each, in HTTP/1 and in HTTP/2: success,
# p99 and spread of load.
chaos *args:
    cargo build --release -p outrigger
    cargo run -p outrigger-xds-tests --bin chaos -- --http 1 {{ args }} envoy="$(bash xds-tests/envoy.sh)" outrigger="${CARGO_TARGET_DIR:-target}/release/outrigger"
    cargo run -p outrigger-xds-tests --bin chaos -- --http 2 {{ args }} envoy="$(bash xds-tests/envoy.sh)" outrigger="${CARGO_TARGET_DIR:-target}/release/outrigger"

# Measures how fast the control plane pushes one endpoint to 1,000 proxies, and what it needs for it.
bench-control-plane *args:
    ulimit -n "$(ulimit -Hn)" && cargo bench -p outrigger-control-plane --bench scale -- {{ args }}

# Runs go-control-plane's integration test in every mode.
go-control-plane:
    cargo test -p outrigger-xds-tests --test go_control_plane

# Measures what route tables of 10,000 virtual hosts and of 10,000 routes cost a release build, per request and in memory.
routes *args:
    cargo build --release -p outrigger
    python3 xds-tests/routes.py "${CARGO_TARGET_DIR:-target}/release/outrigger" {{ args }}

# Lists Rust files of more than 500 lines and functions of more than 60.
sizes:
    python3 xds-tests/sizes.py

ci:
    bash .ci/run
