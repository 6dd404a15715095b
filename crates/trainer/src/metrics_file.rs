//! Writes `metrics.jsonl`, which a run that resumes continues.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::metrics::StepMetrics;
use crate::tensorboard::EventFile;
use crate::{Error, Result};

/// Writes `metrics.jsonl`, a whole line at a time, and TensorBoard events if they are wanted.
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
}

impl MetricsFile {
    /// Opens the file to continue after `step`: the lines of later steps are removed. The file is
    /// replaced and not truncated, so that a reader notices.
    pub fn open_after(dir: &Path, step: u64, tensorboard: bool) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let before = match std::fs::read_to_string(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(Error::io(&path, "read"))?,
        };
        let stays =
            |line: &&str| line.ends_with('\n') && step_of(line).is_some_and(|of| of <= step);
        let kept: String = before.split_inclusive('\n').filter(stays).collect();
        files::write(&path, kept)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "open"))?;
        let events = tensorboard.then(|| EventFile::create_after(dir, step)).transpose()?;
        Ok(Self { path, file, events })
    }

    /// Syncs what was written to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "sync"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&mut self, line: &StepMetrics) -> Result<()> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Error::io(&self.path, "write")(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io(&self.path, "write"))?;
        self.events.as_mut().map_or(Ok(()), |events| events.write(line))
    }
}

/// The step of a line.
fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_later_steps_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let text = || std::fs::read_to_string(&path).unwrap();
        MetricsFile::open_after(dir.path(), 3, false).unwrap();
        assert_eq!(text(), "", "there was none");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n{\"st")
            .unwrap();
        let mut metrics = MetricsFile::open_after(dir.path(), 2, false).unwrap();
        metrics.file.write_all(b"{\"step\":3}\n").unwrap();
        metrics.sync().unwrap();
        assert_eq!(text(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
        MetricsFile::open_after(dir.path(), 0, false).unwrap();
        assert_eq!(text(), "");
    }
}
