//! Files that appear whole or not at all, also when the machine stops in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a file was not written.
#[derive(Debug)]
pub struct Unwritten {
    /// The file or folder with which it went wrong.
    pub path: PathBuf,
    /// What was tried: `create`, `sync`, `replace`.
    pub action: &'static str,
    /// The system's own reason.
    pub source: io::Error,
}

impl std::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {} {}: {}", self.action, self.path.display(), self.source)
    }
}

impl std::error::Error for Unwritten {}

/// Replaces the file at `path` by one of these bytes.
///
/// # Errors
/// What the system refused. The old file is then still there, and nothing else.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("config.toml");
/// loract_files::write(&path, "[run]\nseed = 1\n")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "[run]\nseed = 1\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), Unwritten> {
    replace(path, |aside| {
        // As it was created just now: what somebody put there since is not written to.
        let mut options = OpenOptions::new();
        options.write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
        options
            .open(aside)
            .and_then(|mut file| file.write_all(bytes.as_ref()))
            .map_err(unwritten(path, "write"))
    })
}

/// Lets `fill` write a file next to `path`, syncs it, and renames it to `path`; the folder is
/// synced too, without which a power cut could undo the rename.
///
/// `fill` may itself replace the file that it is given; the access rights stay those of a newly
/// created file.
///
/// # Errors
/// Those of `fill`, or what the system refused. The old file is then still there, and nothing else.
pub fn replace<T, E: From<Unwritten>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let aside = aside(path);
    let rights = create_anew(&aside)
        .and_then(|file| file.metadata())
        .map_err(unwritten(&aside, "create"))?
        .permissions();
    let filled = fill(&aside).and_then(|filled| {
        std::fs::set_permissions(&aside, rights)
            .map_err(unwritten(&aside, "set the access rights of"))?;
        File::open(&aside).and_then(|file| file.sync_all()).map_err(unwritten(&aside, "sync"))?;
        std::fs::rename(&aside, path).map_err(unwritten(path, "replace"))?;
        Ok(filled)
    });
    if filled.is_err() {
        // The first fault is the one to report.
        let _ = std::fs::remove_file(&aside);
        return filled;
    }
    let folder = folder(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritten(folder, "sync"))?;
    filled
}

/// Creates a file where there may be what a killed process left, or a link that somebody put there
/// to have another file written.
///
/// # Errors
/// What the system refused; a folder of this name.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    File::create_new(path)
}

/// Removes what [`replace`] has left at this path in processes that were killed. Another process
/// that is writing it would fail.
///
/// # Errors
/// What the system refused.
pub fn remove_leftovers(path: &Path) -> Result<(), Unwritten> {
    let folder = folder(path);
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_leftover = |other: &[u8]| {
        let process = other
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".part"));
        process.is_some_and(|process| !process.is_empty() && process.iter().all(u8::is_ascii_digit))
    };
    for entry in std::fs::read_dir(folder).map_err(unwritten(folder, "read"))? {
        let other = entry.map_err(unwritten(folder, "read"))?;
        if is_leftover(other.file_name().as_encoded_bytes()) {
            std::fs::remove_file(other.path()).map_err(unwritten(&other.path(), "remove"))?;
        }
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unwritten(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Unwritten {
    let path = path.to_owned();
    move |source| Unwritten { path, action, source }
}

/// A name in the same folder (a rename across file systems is not atomic) that no other process
/// uses.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "old").unwrap();
        let refused: Result<(), Unwritten> = replace(&path, |aside| {
            std::fs::write(aside, "ne").unwrap();
            Err(unwritten(aside, "write")(io::Error::other("stopped half-way")))
        });
        assert!(refused.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_what_it_leads_to_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("other"));
        std::fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, aside(&path)).unwrap();
        write(&path, "new").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join("b")).unwrap();
        write(&dir.path().join("b"), "new").unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
        for name in ["a", "b"] {
            let written = dir.path().join(name);
            assert!(written.symlink_metadata().unwrap().is_file());
            assert_eq!(std::fs::read_to_string(written).unwrap(), "new");
        }
    }

    #[test]
    fn leftovers_of_killed_processes_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.12.part", "a.part", "a..part", "b.12.part", "a.12.part.old", "a"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_leftovers(&dir.path().join("a")).unwrap();
        let mut names = names(dir.path());
        names.sort();
        assert_eq!(names, ["a", "a..part", "a.12.part.old", "a.part", "b.12.part"]);
    }

    #[test]
    fn a_replaced_aside_file_still_gets_ordinary_access_rights() {
        let dir = tempfile::tempdir().unwrap();
        let (path, plain) = (dir.path().join("a"), dir.path().join("plain"));
        std::fs::write(&plain, "").unwrap();
        replace(&path, |aside| {
            std::fs::remove_file(aside).unwrap();
            std::fs::write(aside, "new").unwrap();
            std::fs::set_permissions(aside, std::fs::Permissions::from_mode(0o600)).unwrap();
            Ok::<(), Unwritten>(())
        })
        .unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
