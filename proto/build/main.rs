//! Compiles the `.proto` files of `protos/`, joins them with the descriptors that `envoy-types` ships, and writes
//! one compact schema for the loader, the printer and the checks.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "cargo and a build script talk through both"
)]

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
    // The lock file says which version of the descriptors there is.
    if let Some(lock) = root
        .ancestors()
        .map(|folder| folder.join("Cargo.lock"))
        .find(|lock| lock.exists())
    {
        println!("cargo::rerun-if-changed={}", lock.display());
    }

    let types = envoy_types_source(&root)?.join("src/generated/types.bin");
    // For tests, which compare with another reader of the same descriptors.
    println!("cargo::rustc-env=ENVOY_TYPES_BIN={}", types.display());
    let shipped = fs::read(types)?;
    let compiled = compile(&root.join("protos"), &shipped)?;

    let mut known = FileSet::decode(shipped.as_slice())?;
    let ours = FileSet::decode(compiled.as_slice())?;
    rust::generate(&shipped, &compiled, &known, &out)?;

    merge::merge(&mut known, ours)?;
    fs::write(out.join("schema.bin"), schema::build(&known)?)?;
    Ok(())
}

/// Where cargo keeps the source of `envoy-types`: it says so itself, unless packages that this build does not need
/// are not downloaded. Then the source is where the registry's sources are.
fn envoy_types_source(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    from_metadata(root).or_else(|reason| from_registry(root).ok_or(reason))
}

fn from_metadata(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
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

fn from_registry(root: &Path) -> Option<PathBuf> {
    let lock = root
        .ancestors()
        .find_map(|folder| fs::read_to_string(folder.join("Cargo.lock")).ok())?;
    let (_, after) = lock.split_once("name = \"envoy-types\"\nversion = \"")?;
    let folder = format!("envoy-types-{}", after.split_once('"')?.0);
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    registries
        .flatten()
        .map(|registry| registry.path().join(&folder))
        .find(|source| source.is_dir())
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
