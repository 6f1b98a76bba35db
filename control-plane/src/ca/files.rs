//! Files that only their owner reads.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::CaError;

fn at(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |error| CaError::File { path, error }
}

pub(super) fn make_directory(path: &Path) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at(path))
}

pub(super) fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(at(path))
}

/// Replaces a file as a whole.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CaError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(at(&new))?;
    file.write_all(text.as_bytes()).map_err(at(&new))?;
    file.sync_all().map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
}

pub(super) fn remove(path: &Path) -> Result<(), CaError> {
    fs::remove_file(path).map_err(at(path))
}

pub(super) fn remove_directory(path: &Path) -> Result<(), CaError> {
    fs::remove_dir_all(path).map_err(at(path))
}
