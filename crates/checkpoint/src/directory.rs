//! `checkpoints/`: the folder of a run's checkpoints.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of a run's checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

/// The suffix of a checkpoint that is not complete, or is being removed.
const PART: &str = ".part";

/// The suffix of a damaged checkpoint, which is left to be examined.
const UNSOUND: &str = ".unsound";

/// The folder of the checkpoints of the run in `dir`.
pub fn checkpoints(dir: &Path) -> PathBuf {
    dir.join("checkpoints")
}

/// The step of the newest complete checkpoint of the run in `dir`; its files may be damaged.
pub fn newest_checkpoint(dir: &Path) -> Option<u64> {
    Directory::new(dir).steps().ok()?.last().copied()
}

impl Directory {
    /// That of the run in `dir`, which need not exist.
    pub fn new(dir: &Path) -> Self {
        Self(checkpoints(dir))
    }

    /// The checkpoint of the state after `step` steps.
    pub fn path(&self, step: u64) -> PathBuf {
        self.0.join(name(step))
    }

    /// Where that one is written before it is complete.
    pub fn part(&self, step: u64) -> PathBuf {
        self.0.join(format!("{}{PART}", name(step)))
    }

    /// The steps of all complete checkpoints, oldest first: folders that are called as this program
    /// calls them.
    pub fn steps(&self) -> io::Result<Vec<u64>> {
        let names = self.names()?;
        let is_folder =
            |step: &u64| self.path(*step).symlink_metadata().is_ok_and(|at| at.is_dir());
        let mut steps: Vec<u64> =
            names.iter().filter_map(|name| step_of(name)).filter(is_folder).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The names of what is there and is no checkpoint, nor a part of one, nor one set aside.
    pub fn unknown_entries(&self) -> io::Result<Vec<String>> {
        let steps: BTreeSet<u64> = self.steps()?.into_iter().collect();
        let is_own = |name: &String| match step_of(name) {
            Some(step) => steps.contains(&step),
            None => {
                let marks = [PART, UNSOUND, &format!(".old{PART}")];
                marks.iter().any(|mark| name.strip_suffix(mark).and_then(step_of).is_some())
            }
        };
        Ok(self.names()?.into_iter().filter(|name| !is_own(name)).collect())
    }

    /// Removes what was left incomplete by a run that was ended.
    pub fn sweep(&self) -> io::Result<()> {
        let is_part = |name: &&String| {
            name.strip_suffix(PART)
                .is_some_and(|name| step_of(name.strip_suffix(".old").unwrap_or(name)).is_some())
        };
        let remove = |name: &String| match self.0.join(name) {
            path if path.symlink_metadata()?.is_dir() => fs::remove_dir_all(path),
            path => fs::remove_file(path),
        };
        self.names()?.iter().filter(is_part).try_for_each(remove)
    }

    /// Removes what was written of a checkpoint that did not become one.
    pub fn discard(&self, step: u64) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(self.part(step)))
    }

    /// Makes the complete folder [`Directory::part`] the checkpoint, by one rename.
    pub fn commit(&self, step: u64) -> io::Result<()> {
        // If there is one already, it was found damaged, or the run would have resumed from it.
        self.remove(step)?;
        fs::rename(self.part(step), self.path(step))?;
        self.sync()
    }

    /// Renames a damaged checkpoint, so that its files can be examined.
    pub fn set_aside(&self, step: u64) -> io::Result<PathBuf> {
        let aside = self.0.join(format!("{}{UNSOUND}", name(step)));
        absent_is_fine(fs::remove_dir_all(&aside))?;
        fs::rename(self.path(step), &aside)?;
        self.sync()?;
        Ok(aside)
    }

    /// Removes all checkpoints but the `keep` newest and that of step `best`.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> io::Result<()> {
        let steps = self.steps()?;
        let kept: BTreeSet<u64> = steps.iter().rev().take(keep).copied().chain(best).collect();
        steps.into_iter().filter(|step| !kept.contains(step)).try_for_each(|step| self.remove(step))
    }

    /// Removes a checkpoint, so that it is never half there under its name.
    fn remove(&self, step: u64) -> io::Result<()> {
        let doomed = self.0.join(format!("{}.old{PART}", name(step)));
        absent_is_fine(fs::remove_dir_all(&doomed))?;
        absent_is_fine(fs::rename(self.path(step), &doomed))?;
        absent_is_fine(fs::remove_dir_all(&doomed))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a checkpoint that has this name; `None` for every other name, also of a number that
/// is written in another way.
fn step_of(text: &str) -> Option<u64> {
    let step = text.strip_prefix("step-")?.parse().ok()?;
    (name(step) == text).then_some(step)
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|cause| if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(steps: &[u64]) -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        for &step in steps {
            fs::create_dir_all(directory.part(step)).unwrap();
            fs::write(directory.part(step).join("manifest.json"), step.to_string()).unwrap();
            directory.commit(step).unwrap();
        }
        (dir, directory)
    }

    #[test]
    fn what_is_no_checkpoint_is_named_and_left_alone() {
        let (dir, directory) = directory_with(&[10]);
        let at = checkpoints(dir.path());
        for folder in
            ["step-999", "step-+7", "step-00000012.unsound", "step-00000014.part", "notes"]
        {
            fs::create_dir(at.join(folder)).unwrap();
        }
        for file in ["x.part", "step-00000020", "step-00000016.part"] {
            fs::write(at.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), at.join("step-00000030")).unwrap();
        assert_eq!(directory.steps().unwrap(), [10]);
        directory.sweep().unwrap();
        let mut unknown = directory.unknown_entries().unwrap();
        unknown.sort();
        let named = ["notes", "step-+7", "step-00000020", "step-00000030", "step-999", "x.part"];
        assert_eq!(unknown, named);
        assert!(at.join("x.part").exists() && !at.join("step-00000014.part").exists());
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let (dir, directory) = directory_with(&[10, 20, 30, 40, 100_000_000]);
        assert_eq!(newest_checkpoint(dir.path()), Some(100_000_000));
        directory.prune(2, Some(20)).unwrap();
        assert_eq!(directory.steps().unwrap(), [20, 40, 100_000_000]);
        directory.prune(1, None).unwrap();
        assert_eq!(directory.steps().unwrap(), [100_000_000]);
        assert_eq!(
            fs::read_dir(checkpoints(dir.path())).unwrap().count(),
            1,
            "nothing is left of the others"
        );
    }

    #[test]
    fn an_incomplete_checkpoint_does_not_count_and_is_removed() {
        let (dir, directory) = directory_with(&[10]);
        fs::create_dir_all(directory.part(20)).unwrap();
        fs::create_dir_all(checkpoints(dir.path()).join("step-00000005.old.part")).unwrap();
        assert_eq!(directory.steps().unwrap(), [10]);
        directory.sweep().unwrap();
        assert_eq!(fs::read_dir(checkpoints(dir.path())).unwrap().count(), 1);
        assert!(Directory::new(&dir.path().join("none")).steps().unwrap().is_empty());
    }

    #[test]
    fn a_new_checkpoint_replaces_a_damaged_one_of_its_step() {
        let (_dir, directory) = directory_with(&[10, 20]);
        fs::create_dir_all(directory.part(20)).unwrap();
        fs::write(directory.part(20).join("manifest.json"), "new").unwrap();
        directory.commit(20).unwrap();
        assert_eq!(fs::read_to_string(directory.path(20).join("manifest.json")).unwrap(), "new");
        let aside = directory.set_aside(20).unwrap();
        assert!(aside.ends_with("step-00000020.unsound") && aside.is_dir());
        assert_eq!(directory.steps().unwrap(), [10]);
    }
}
