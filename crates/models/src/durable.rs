//! Files that appear whole or not at all, also when the machine stops in between.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Lets `write` fill a file beside `path`, syncs it, and renames it to `path`.
///
/// `write` may itself replace the file it is given; the access rights stay those of a newly created file.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let aside = aside(path);
    let rights = File::create(&aside).and_then(|file| file.metadata()).map_err(Error::io(&aside, "create"))?.permissions();
    let done = write(&aside).and_then(|()| {
        std::fs::set_permissions(&aside, rights).map_err(Error::io(&aside, "set the access rights of"))?;
        File::open(&aside).and_then(|file| file.sync_all()).map_err(Error::io(&aside, "sync"))?;
        std::fs::rename(&aside, path).map_err(Error::io(path, "replace"))
    });
    if done.is_err() {
        // The first fault is the one to report; what is left aside is only litter.
        let _ = std::fs::remove_file(&aside);
        return done;
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder, "sync"))
}

/// A name in the same folder (a rename across file systems is not atomic) that no other process uses.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "old").unwrap();
        let refused = replace(&path, |aside| {
            std::fs::write(aside, "ne").unwrap();
            Err(Error::corrupt(aside, "stopped half-way"))
        });
        assert!(refused.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["a.json"]);
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
            Ok(())
        })
        .unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
