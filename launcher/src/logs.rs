//! A rank's log: everything into its file, errors on stderr as well, each with the rank and host it
//! is from; and its timeline.

use crate::{env, run_dir::RunDir};
use anyhow::Context;
use std::{
    fmt,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    sync::Mutex,
};
use tracing::{Event, Level, Subscriber};
use tracing_chrome::{ChromeLayerBuilder, FlushGuard};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::LevelFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
};

/// Marks an error that a rank logged and survived, so that it is not taken for the rank's end.
pub const LOGGED: &str = "[error]";

const FAILED: &str = "the run failed: ";

/// Sends this process's log to the rank's file in the run directory, after what an interrupted run
/// has written. The first line of each process has its rank and host.
///
/// What the steps spend their time on goes to the file `trace` in Chrome's trace format, of other
/// ranks than 0 to one of their own, until the returned guard is dropped.
pub fn start(
    dir: &RunDir,
    rank: usize,
    world_size: usize,
    host: &str,
    trace: Option<&Path>,
) -> anyhow::Result<Option<FlushGuard>> {
    std::fs::create_dir_all(dir.logs())
        .with_context(|| format!("cannot make the directory {}", dir.logs().display()))?;
    let path = dir.rank_log(rank);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write the log {}", path.display()))?;
    let filter = match std::env::var(env::LORACT_LOG) {
        Ok(levels) => EnvFilter::try_new(&levels).with_context(|| {
            format!(
                "{}={levels} is not a log filter; try debug, or info,reduce=trace",
                env::LORACT_LOG
            )
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let to_file = tracing_subscriber::fmt::layer()
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_filter(filter);
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(RankLine { rank, host: host.to_owned() })
        .with_filter(LevelFilter::from_level(Level::ERROR));
    let (timeline, guard) = match trace.map(|path| timeline(path, rank)).transpose()? {
        Some(file) => {
            let (layer, guard) = ChromeLayerBuilder::new()
                .writer(file)
                .include_args(true)
                .include_locations(false)
                .build();
            (
                Some(layer.with_filter(EnvFilter::new("off,loract_trainer=trace,reduce=trace"))),
                Some(guard),
            )
        }
        None => (None, None),
    };
    let subscriber = tracing_subscriber::registry().with(to_file).with(to_stderr).with(timeline);
    tracing::subscriber::set_global_default(subscriber).context("the log was started twice")?;
    tracing::info!("{}", first_line(rank, world_size, host, std::process::id()));
    Ok(guard)
}

/// The file for a rank's timeline: `trace.json`, `trace-rank-0001.json`.
fn timeline(path: &Path, rank: usize) -> anyhow::Result<File> {
    let path = if rank == 0 { path.to_owned() } else { path_of_rank(path, rank) };
    File::create(&path).with_context(|| format!("cannot write the timeline {}", path.display()))
}

fn path_of_rank(path: &Path, rank: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path
        .extension()
        .map_or_else(String::new, |extension| format!(".{}", extension.to_string_lossy()));
    path.with_file_name(format!("{stem}-rank-{rank:04}{extension}"))
}

fn first_line(rank: usize, world_size: usize, host: &str, pid: u32) -> String {
    format!("rank {rank} of {world_size} on {host}, process {pid}")
}

/// The host and process of the last process that wrote a rank's log.
pub fn origin(log: &str) -> Option<(String, u32)> {
    log.lines().rev().find_map(parse_first_line).map(|(_, host, pid)| (host, pid))
}

/// Says in the log why the run has failed, in words that [`last_words`] finds there should they not
/// reach mpirun.
pub fn failed(words: &str) {
    tracing::warn!("{FAILED}{words}");
}

/// Why the last process that wrote a rank's log says that the run has failed.
pub fn last_words(log: &str) -> Option<&str> {
    let own = log.lines().rev().take_while(|line| parse_first_line(line).is_none());
    own.filter_map(|line| line.split_once(FAILED)).map(|(_, words)| words).last()
}

/// The ranks of the job that last wrote a rank's log.
pub fn world_size(log: &str) -> Option<usize> {
    log.lines().rev().find_map(parse_first_line).map(|(ranks, _, _)| ranks)
}

/// Ranks, host and process of a [`first_line`].
fn parse_first_line(line: &str) -> Option<(usize, String, u32)> {
    let (before, origin) = line.split_once(" on ")?;
    let (before, ranks) = before.rsplit_once(" of ")?;
    before.rsplit_once("rank ")?.1.parse::<usize>().ok()?;
    let (host, pid) = origin.split_once(", process ")?;
    Some((ranks.parse().ok()?, host.to_owned(), pid.trim().parse().ok()?))
}

/// The level of a line of a log: `WARN`.
pub fn level(line: &str) -> Option<&str> {
    let level = line.split_whitespace().nth(1)?;
    ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level).then_some(level)
}

/// `rank 1 (host node2): [error] message`.
struct RankLine {
    rank: usize,
    host: String,
}

impl<S, N> FormatEvent<S, N> for RankLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "rank {} (host {}): {LOGGED} ", self.rank, self.host)?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_where_a_rank_ran() {
        let line = format!(
            "2026-01-01T00:00:00Z  INFO loract: {}\nmore on x, process 1",
            first_line(1, 2, "node-7", 4321)
        );
        assert_eq!(origin(&line), Some(("node-7".to_owned(), 4321)));
        assert_eq!((world_size(&line), world_size("something else")), (Some(2), None));
        let twice = format!(
            "{line}\nINFO loract: {}\nskipped 1 of 2 on x, process 9",
            first_line(1, 3, "node-8", 99)
        );
        assert_eq!(
            (origin(&twice), world_size(&twice)),
            (Some(("node-8".to_owned(), 99)), Some(3)),
            "the last process counts"
        );
        assert_eq!(origin(""), None);
        assert_eq!(origin("something else"), None);
    }

    #[test]
    fn each_rank_has_a_timeline_of_its_own() {
        assert_eq!(path_of_rank(Path::new("a/trace.json"), 1), Path::new("a/trace-rank-0001.json"));
        assert_eq!(path_of_rank(Path::new("trace"), 12), Path::new("trace-rank-0012"));
    }

    #[test]
    fn the_last_words_are_those_of_the_last_process() {
        let first = |pid| format!("INFO loract: {}\n", first_line(1, 2, "n", pid));
        let log = format!(
            "{}WARN loract: the run failed: old\n{}WARN loract: the run failed: x: y\nWARN the run failed: z\n",
            first(1),
            first(2)
        );
        assert_eq!(last_words(&log), Some("x: y"), "the first reason counts");
        assert_eq!(last_words(&format!("{log}{}", first(3))), None);
    }

    #[test]
    fn a_line_has_a_level_and_its_continuation_has_none() {
        assert_eq!(level("2026-01-01T00:00:00Z  WARN loract: x"), Some("WARN"));
        assert_eq!((level("  in a WARN"), level("")), (None, None));
    }
}
