//! The metrics of a run as TensorBoard reads them: event files of TensorFlow's record format, in
//! `tensorboard/`.
//!
//! A run that resumes writes another file, which starts by revoking the steps that will be done
//! again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::metrics::StepMetrics;
use crate::{Error, Result};

/// `tensorflow.Event`: the fields that are written here.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value` with a number.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `tensorflow.SessionLog.SessionStatus.START`: what was written for this step and later ones no
/// longer holds.
const START: i32 = 1;

/// An event file that grows.
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new file in `dir/tensorboard` for the steps after `step`.
    pub fn create_after(dir: &Path, step: u64) -> Result<Self> {
        let folder = dir.join("tensorboard");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "make"))?;
        let now = now();
        // TensorBoard reads files in the order of their names, which contain `tfevents`; the
        // process id distinguishes two of one second.
        let path = folder.join(format!(
            "events.out.tfevents.{:010}.{:07}",
            now as u64,
            std::process::id()
        ));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(&path, "create"))?;
        let mut events = Self { path, file };
        events.append(&Event {
            wall_time: now,
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        })?;
        let session_log = Some(SessionLog { status: START });
        events.append(&Event {
            wall_time: now,
            step: step as i64 + 1,
            session_log,
            ..Event::default()
        })?;
        Ok(events)
    }

    /// One step's numbers.
    pub fn write(&mut self, line: &StepMetrics) -> Result<()> {
        let numbers = [
            ("train/loss", Some(line.loss)),
            ("train/learning_rate", Some(line.learning_rate)),
            ("train/grad_norm", Some(line.grad_norm)),
            ("eval/loss", line.eval_loss),
            ("eval/accuracy", line.eval_accuracy),
            ("speed/tokens_per_second", Some(line.tokens_per_second)),
            ("speed/step_seconds", Some(line.step_seconds)),
            ("speed/reduce_wait_seconds", Some(line.reduce_wait_seconds)),
            ("memory/kept_bytes", Some(line.kept_bytes as f64)),
            ("memory/peak_bytes", Some(line.peak_bytes as f64)),
            ("network/reduced_bytes", Some(line.reduced_bytes as f64)),
        ];
        let scalar = |(tag, number): (&str, Option<f64>)| {
            number.map(|number| Scalar { tag: tag.into(), simple_value: Some(number as f32) })
        };
        let value = numbers.into_iter().filter_map(scalar).collect();
        self.append(&Event {
            wall_time: now(),
            step: line.step as i64,
            summary: Some(Summary { value }),
            ..Event::default()
        })
    }

    fn append(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&record(&event.encode_to_vec())).map_err(Error::io(&self.path, "write"))
    }
}

/// TensorFlow's record: the length, its checksum, the data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_checksum(&length), data, &masked_checksum(data)].concat()
}

/// CRC-32C, rotated and moved, so that a record within a record does not pass for one.
fn masked_checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let (data, checksum) = (&bytes[12..12 + length], &bytes[12 + length..16 + length]);
            assert_eq!(
                (&bytes[8..12], checksum),
                (&masked_checksum(&bytes[..8])[..], &masked_checksum(data)[..])
            );
            events.push(Event::decode(data).unwrap());
            bytes = &bytes[16 + length..];
        }
        events
    }

    #[test]
    fn a_record_is_what_tensorboard_writes() {
        // `tensorboard.summary.writer.record_writer.RecordWriter` with b"abc".
        let expected =
            [3, 0, 0, 0, 0, 0, 0, 0, 176, 153, 73, 14, b'a', b'b', b'c', 110, 87, 241, 33];
        assert_eq!(record(b"abc"), expected);
    }

    #[test]
    fn a_run_that_resumes_revokes_what_it_will_do_again() {
        let dir = tempfile::tempdir().unwrap();
        let line = StepMetrics {
            step: 4,
            loss: 1.5,
            eval_loss: Some(0.25),
            kept_bytes: 7,
            ..StepMetrics::default()
        };
        EventFile::create_after(dir.path(), 3).unwrap().write(&line).unwrap();
        let path = std::fs::read_dir(dir.path().join("tensorboard"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        assert!(path.file_name().unwrap().to_str().unwrap().contains("tfevents"));
        let events = events(&std::fs::read(path).unwrap());
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, events[1].session_log.as_ref().unwrap().status), (4, START));
        let values = &events[2].summary.as_ref().unwrap().value;
        let of = |tag: &str| {
            values.iter().find(|scalar| scalar.tag == tag).and_then(|scalar| scalar.simple_value)
        };
        assert_eq!((events.len(), events[2].step), (3, 4));
        assert_eq!(
            (of("train/loss"), of("eval/loss"), of("memory/kept_bytes")),
            (Some(1.5), Some(0.25), Some(7.0))
        );
        assert_eq!(of("eval/accuracy"), None, "what was not measured is not written");
    }
}
