//! Compiles the messages of `protos/`.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "cargo and a build script talk through both"
)]

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let files = [
        "protos/outrigger/registry/v1/registry.proto",
        "protos/istio/v1/auth/ca.proto",
    ];
    prost_build::Config::new()
        .compile_well_known_types()
        .extern_path(
            ".google.protobuf",
            "::outrigger_proto::pb::google::protobuf",
        )
        .compile_fds(protox::compile(files, ["protos"])?)?;
    Ok(())
}
