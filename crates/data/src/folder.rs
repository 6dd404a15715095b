//! The files of a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files of a folder that are taken, in the order of their paths, and what is left out.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) taken: Vec<PathBuf>,
    pub(crate) left_out: LeftOut,
}

/// How many files were left out, by their endings.
#[derive(Debug, Default)]
pub(crate) struct LeftOut(BTreeMap<String, usize>);

/// Endings that are named before the rest is only counted.
const NAMED: usize = 6;

/// Lists the files below `folder` that are `known`, and counts the others; hidden ones are neither.
///
/// # Errors
/// If a folder cannot be read, or a link in it leads back to one that it is in.
pub(crate) fn list(folder: &Path, known: impl Fn(&Path) -> bool) -> Result<Listing> {
    let mut listing = Listing { taken: Vec::new(), left_out: LeftOut::default() };
    walk(folder, &known, &mut Vec::new(), &mut listing)?;
    Ok(listing)
}

fn walk(
    folder: &Path,
    known: &impl Fn(&Path) -> bool,
    above: &mut Vec<PathBuf>,
    listing: &mut Listing,
) -> Result<()> {
    let io = || Error::io("list", folder);
    let real = folder.canonicalize().map_err(io())?;
    if above.contains(&real) {
        return Err(Error::file(folder, "a link to a folder that it lies in", "remove the link"));
    }
    above.push(real);
    let entries = std::fs::read_dir(folder)
        .map_err(io())?
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(io())?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if path.is_dir() {
            walk(&path, known, above, listing)?;
        } else if known(&path) {
            listing.taken.push(path);
        } else {
            *listing.left_out.0.entry(ending(&path)).or_default() += 1;
        }
    }
    above.pop();
    Ok(())
}

/// The last part of a name, in small letters.
pub(crate) fn ending(path: &Path) -> String {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase()
}

impl LeftOut {
    /// A line about them, unless there are none.
    pub(crate) fn told(&self, folder: &Path) -> Option<String> {
        let count: usize = self.0.values().sum();
        let mut endings: Vec<_> = self.0.iter().collect();
        endings
            .sort_by_key(|&(ending, &count)| (std::cmp::Reverse(count), ending.is_empty(), ending));
        let named = endings.iter().take(NAMED).map(|(ending, count)| match ending.as_str() {
            "" => format!("without an ending ({count})"),
            ending => format!(".{ending} ({count})"),
        });
        let mut named: Vec<String> = named.collect();
        let others = endings.len().saturating_sub(NAMED);
        if others > 0 {
            named.push(format!("and {others} other endings"));
        }
        let files = if count == 1 { "file" } else { "files" };
        (count > 0).then(|| {
            format!("left out {count} {files} of {}: {}", folder.display(), named.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_link_that_leads_back_is_named_and_does_not_end_in_a_loop() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/back")).unwrap();
        let error = list(folder.path(), |_| true).unwrap_err().to_string();
        assert!(
            error.contains("a link to a folder that it lies in, in ") && error.contains("a/back"),
            "{error}"
        );
        std::fs::remove_file(folder.path().join("a/back")).unwrap();
        // Twice the same folder, but not within itself.
        std::fs::write(folder.path().join("a/x.txt"), "").unwrap();
        std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_eq!(list(folder.path(), |_| true).unwrap().taken.len(), 2);
    }
}
