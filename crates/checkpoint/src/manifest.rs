//! `manifest.json`: which run a checkpoint is of, and its files with their checksums.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::compat::CompatKeys;
use crate::inputs::InputFingerprints;

/// The version of the format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
const NAME: &str = "manifest.json";
/// The manifest's own checksum, in the format of `sha256sum`.
const CHECKSUM: &str = "manifest.sha256";

/// A checkpoint, described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// Steps done.
    pub step: u64,
    /// Ranks that wrote it.
    pub ranks: usize,
    /// The configuration, where it must agree.
    pub config: CompatKeys,
    /// The fingerprint of the training data.
    pub data: String,
    /// That of the frozen base model; `None` where the checkpoint holds all weights, and in
    /// checkpoints of earlier versions.
    #[serde(default)]
    pub base: Option<String>,
    /// Validation loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Validation loss after this step, where it was evaluated.
    pub eval_loss: Option<f64>,
    /// The checkpoint with the lowest validation loss so far, this one included.
    pub best: Option<Best>,
    /// Time of the steps so far.
    pub seconds: f64,
    /// Every file but the manifest and its checksum.
    pub files: Vec<FileEntry>,
}

/// The checkpoint with the lowest validation loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Steps done.
    pub step: u64,
    /// Its validation loss.
    pub eval_loss: f64,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    /// Its name in the checkpoint's folder.
    pub name: String,
    bytes: u64,
    sha256: String,
}

impl FileEntry {
    /// Describes the file `name` in `folder`.
    pub fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let bytes = io::copy(&mut files::open(&folder.join(name))?, &mut hash)?;
        Ok(Self { name: name.to_owned(), bytes, sha256: format!("{:x}", hash.finalize()) })
    }

    /// Whether the file in `folder` is still what was written; if not, why.
    pub fn check(&self, folder: &Path) -> Result<(), String> {
        if !is_plain(&self.name) {
            return Err(format!("{NAME} names {:?}, which is no file of its folder", self.name));
        }
        // Before it is read: another size is reason enough.
        let path = folder.join(&self.name);
        let of_another_size = |length: u64| {
            let Self { name, bytes, .. } = self;
            (length != *bytes).then(|| format!("{name} has {length} bytes, {bytes} were written"))
        };
        let length = files::open(&path)
            .and_then(|file| Ok(file.metadata()?.len()))
            .map_err(|cause| format!("{} cannot be read: {}", self.name, io::Error::from(cause)))?;
        of_another_size(length).map_or(Ok(()), Err)?;
        let found = Self::new(folder, &self.name)
            .map_err(|cause| format!("{} cannot be read: {cause}", self.name))?;
        of_another_size(found.bytes).map_or(Ok(()), Err)?;
        if found.sha256 != self.sha256 {
            return Err(format!(
                "{} has changed since it was written: its checksum differs",
                self.name
            ));
        }
        Ok(())
    }
}

/// Whether a name is that of a file in the folder itself.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_one = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    is_one && parts.next().is_none() && !name.contains('\0')
}

impl Manifest {
    /// Of the state after `step` steps that `ranks` ranks write, without files yet.
    pub fn new(step: u64, ranks: usize, config: CompatKeys, inputs: InputFingerprints) -> Self {
        Self {
            format: FORMAT,
            step,
            ranks,
            config,
            data: inputs.data,
            base: inputs.base,
            eval_loss_before: None,
            eval_loss: None,
            best: None,
            seconds: 0.0,
            files: Vec::new(),
        }
    }

    /// Writes it and its checksum into `folder`, synced.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let checksum = format!("{}  {NAME}\n", checksum(&text));
        for (name, content) in [(NAME, text.as_slice()), (CHECKSUM, checksum.as_bytes())] {
            let mut file = files::create_anew(&folder.join(name))?;
            file.write_all(content)?;
            file.sync_all()?;
        }
        File::open(folder)?.sync_all()
    }

    /// Reads the one in `folder`; if it cannot be trusted, why.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            files::read_whole(&folder.join(name))
                .map_err(|cause| format!("{name} cannot be read: {}", io::Error::from(cause)))
        };
        let (text, written) = (read(NAME)?, read(CHECKSUM)?);
        if written != format!("{}  {NAME}\n", checksum(&text)).as_bytes() {
            return Err(format!("{NAME} has changed since it was written: its checksum differs"));
        }
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|cause| format!("{NAME} is of another version: {cause}"))?;
        if manifest.format != FORMAT {
            return Err(format!(
                "{NAME} has format {}, and this version reads {FORMAT}",
                manifest.format
            ));
        }
        Ok(manifest)
    }
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rank-0000.safetensors"), "some bytes").unwrap();
        let mut manifest = Manifest::new(7, 1, CompatKeys::default(), InputFingerprints::default());
        manifest.eval_loss = Some(0.1 + 0.2);
        manifest.best = Some(Best { step: 7, eval_loss: 0.25 });
        manifest.files.push(FileEntry::new(folder.path(), "rank-0000.safetensors").unwrap());
        manifest.write(folder.path()).unwrap();
        (folder, manifest)
    }

    #[test]
    fn what_is_written_is_read() {
        let (folder, manifest) = written();
        let read = Manifest::read(folder.path()).unwrap();
        assert_eq!((read.step, read.best, &read.files), (7, manifest.best, &manifest.files));
        read.files[0].check(folder.path()).unwrap();
    }

    #[test]
    fn any_changed_byte_and_any_cut_is_noticed() {
        let (folder, _) = written();
        for name in [NAME, CHECKSUM, "rank-0000.safetensors"] {
            let path = folder.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            let is_sound = || {
                Manifest::read(folder.path())
                    .and_then(|read| read.files[0].check(folder.path()))
                    .is_ok()
            };
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 4;
                std::fs::write(&path, &damaged).unwrap();
                assert!(!is_sound(), "{name} with byte {at} flipped");
                std::fs::write(&path, &whole[..at]).unwrap();
                assert!(!is_sound(), "{name} cut at {at}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(!is_sound(), "{name} gone");
            std::fs::write(&path, &whole).unwrap();
            assert!(is_sound());
        }
    }

    #[test]
    fn files_elsewhere_and_of_another_size_are_not_read() {
        let (folder, manifest) = written();
        let outside = folder.path().with_extension("outside");
        std::fs::write(&outside, "some bytes").unwrap();
        let sibling = format!("../{}", outside.file_name().unwrap().to_str().unwrap());
        let absolute = outside.to_str().unwrap();
        for name in
            [&sibling, absolute, "/dev/zero", "..", ".", "", "a/b", "./rank-0000.safetensors"]
        {
            let entry = FileEntry { name: name.into(), ..manifest.files[0].clone() };
            let refused = entry.check(folder.path()).unwrap_err();
            assert!(refused.contains("which is no file of its folder"), "{refused}");
        }
        std::fs::remove_file(&outside).unwrap();
        let path = folder.path().join("rank-0000.safetensors");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = manifest.files[0].check(folder.path()).unwrap_err();
        assert!(refused.contains("has 1099511627776 bytes, 10 were written"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let refused = manifest.files[0].check(folder.path()).unwrap_err();
        assert!(refused.contains("it is a device"), "{refused}");
    }

    #[test]
    fn another_format_is_refused() {
        let (folder, mut manifest) = written();
        manifest.format = 2;
        manifest.write(folder.path()).unwrap();
        assert!(Manifest::read(folder.path()).unwrap_err().contains("format 2"));
    }
}
