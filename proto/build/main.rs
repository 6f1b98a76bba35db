//! Compiles the `.proto` files of `protos/`, joins them with the descriptors that `envoy-types` ships, and writes
//! one compact schema for the loader, the printer and the checks.

mod descriptor;
mod merge;
mod rust;
mod schema;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use prost::Message;
use protox::Compiler;
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, IncludeFileResolver};

use crate::descriptor::FileSet;

/// Package under which `protos/` declares fields that messages of `envoy-types` lack.
const PATCH_PACKAGE: &str = "outrigger.patch";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=protos");
    println!("cargo::rerun-if-changed=Cargo.toml");

    let types = envoy_types_source(&root)?.join("src/generated/types.bin");
    // For tests, which compare with another reader of the same descriptors.
    println!("cargo::rustc-env=ENVOY_TYPES_BIN={}", types.display());
    let shipped = fs::read(types)?;
    let compiled = compile(&root.join("protos"), &shipped)?;

    let mut known = FileSet::decode(shipped.as_slice())?;
    let ours = FileSet::decode(compiled.as_slice())?;
    rust::generate(&shipped, &compiled, &known, &ours, &out)?;

    merge::merge(&mut known, ours)?;
    fs::write(out.join("schema.bin"), schema::build(&known)?)?;
    Ok(())
}

/// Where cargo keeps the source of `envoy-types`. Works for registries and for vendored sources alike.
fn envoy_types_source(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").ok_or("cargo did not say where it is")?;
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--offline",
            "--format-version",
            "1",
            "--filter-platform",
        ])
        .arg(env::var("TARGET")?)
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not list envoy-types")?;
    Ok(Path::new(manifest)
        .parent()
        .ok_or("a manifest has a folder")?
        .to_owned())
}

/// The encoded descriptors of our own files, without their imports.
fn compile(protos: &Path, shipped: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(protos.to_owned()));
    resolver.add(DescriptorSetFileResolver::decode(shipped)?);
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(false).include_source_info(false);
    for file in proto_files(protos)? {
        compiler.open_file(file)?;
    }
    Ok(compiler.encode_file_descriptor_set())
}

fn proto_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(proto_files(&path)?);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
