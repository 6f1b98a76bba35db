//! The files of an agent. Each is replaced by a move, which proxies watch for; certificate, key and roots are replaced
//! together, by one move of the link that leads to all of them, so that nobody who looks finds a certificate beside the
//! key of another.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The link to the folder with the present set.
const PRESENT: &str = ".certificates";

/// A file's name, text and mode.
pub(super) type File<'a> = (&'a str, &'a str, u32);

/// Replaces one file.
pub(super) fn write(directory: &Path, (name, text, mode): File<'_>) -> io::Result<()> {
    let new = directory.join(format!(".{name}.new"));
    let _ = fs::remove_file(&new);
    create(&new, text, mode)?;
    fs::rename(new, directory.join(name))
}

/// Replaces several files at once.
pub(super) fn write_set(directory: &Path, files: &[File<'_>]) -> io::Result<()> {
    let number = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let folder = format!("{PRESENT}-{number}");
    let before = fs::read_link(directory.join(PRESENT)).ok();
    let new = directory.join(&folder);
    fs::DirBuilder::new().mode(0o755).create(&new)?;
    for (name, text, mode) in files {
        create(&new.join(name), text, *mode)?;
    }
    link(directory, Path::new(&folder), PRESENT)?;
    for (name, ..) in files {
        let target = PathBuf::from(PRESENT).join(name);
        if fs::read_link(directory.join(name)).ok().as_ref() != Some(&target) {
            link(directory, &target, name)?;
        }
    }
    // The set before stays for those that have read a part of it.
    for entry in fs::read_dir(directory)?.flatten() {
        let name = PathBuf::from(entry.file_name());
        let is_set = entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{PRESENT}-"));
        if is_set && name != Path::new(&folder) && Some(&name) != before.as_ref() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A link in the place of what was there.
fn link(directory: &Path, target: &Path, name: &str) -> io::Result<()> {
    let new = directory.join(format!(".{name}.new"));
    let _ = fs::remove_file(&new);
    symlink(target, &new)?;
    fs::rename(new, directory.join(name))
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_replaced_as_a_whole_and_two_are_kept() {
        let directory =
            std::env::temp_dir().join(format!("outrigger-agent-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        // As an agent without sets has left it.
        write(&directory, ("key.pem", "old", 0o600)).unwrap();
        for turn in ["1", "2", "3"] {
            write_set(
                &directory,
                &[("key.pem", turn, 0o600), ("certificate.pem", turn, 0o644)],
            )
            .unwrap();
            for name in ["key.pem", "certificate.pem"] {
                assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), turn);
                // Both lead through the one link that is moved.
                let target = fs::read_link(directory.join(name)).unwrap();
                assert_eq!(target, Path::new(PRESENT).join(name));
            }
        }
        let mode = {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(directory.join("key.pem")).unwrap().mode()
        };
        assert_eq!(mode & 0o777, 0o600);
        let sets = fs::read_dir(&directory).unwrap().flatten();
        let sets = sets.filter(|entry| entry.file_type().unwrap().is_dir());
        assert_eq!(sets.count(), 2);
        fs::remove_dir_all(directory).unwrap();
    }
}
