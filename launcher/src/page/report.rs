//! The page of a run: its loss, speed, memory and traffic over the steps, its ranks and its
//! configuration.

use super::{
    axis::{Axis, Spread},
    config_tables,
    plot::{Drawing, Look, Plot, Series},
    render,
    table::Table,
};
use crate::{logs, metrics::Step, report::Report, run_dir::RunDir};
use config::units;
use minijinja::context;
use serde::Serialize;

/// The page of the run that `report` sums up.
pub fn page(report: &Report) -> anyhow::Result<String> {
    let dir = report.dir();
    let config = std::fs::read_to_string(dir.config()).unwrap_or_default();
    let (plots, mut notes) = plots(report, clip(&config));
    if report.steps().is_empty() {
        notes = vec![
            "metrics.jsonl holds no whole step yet; the plots come with the first ones.".to_owned(),
        ];
    }
    let (ranks, warnings) = ranks(dir, report.world_size());
    let full_path = dir.path().canonicalize().unwrap_or_else(|_| dir.path().to_owned());
    render(
        "report.html",
        context! {
            name => full_path.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned()),
            dir => full_path.display().to_string(),
            state => state(report),
            summary => report.rows(),
            plots,
            notes,
            ranks,
            warnings,
            config => config_tables(&config),
        },
    )
}

/// Whether the run has come to its end.
fn state(report: &Report) -> String {
    let Some(last) = report.steps().last() else { return "No step was written yet.".to_owned() };
    match last.total_steps {
        Some(total) if last.step < total => {
            format!("Step {} of {total}: the run is not finished.", last.step)
        }
        _ if !report.is_finished() => format!(
            "Step {}: all steps are done, but the run has not written its summary.",
            last.step
        ),
        _ => format!("A finished run of {} steps.", last.step),
    }
}

/// The norm to which gradients are clipped, where the configuration names one.
fn clip(config: &str) -> Option<f64> {
    let table: toml::Table = config.parse().ok()?;
    table.get("optimizer")?.get("clip_grad_norm")?.as_float().filter(|norm| *norm > 0.0)
}

/// The plots that can be drawn, and a note for each that cannot.
fn plots(report: &Report, clip: Option<f64>) -> (Vec<Drawing>, Vec<String>) {
    let steps = report.steps();
    let mut drawings = Vec::new();
    let mut notes = Vec::new();
    for (plot, note) in [
        (loss(report), "no loss"),
        (learning_rate(steps), "no learning rate"),
        (grad_norm(steps, clip), "no gradient norm"),
        (tokens_per_second(steps), "no speed"),
        (step_time(steps), "no step time"),
        (saved_activations(steps), "no bytes saved for the backward pass"),
        (peak(steps), "no peak of memory"),
    ] {
        match plot.draw() {
            Some(drawing) => drawings.push(drawing),
            None => notes.push(left_out(&plot.title, &format!("metrics.jsonl has {note}"))),
        }
    }
    let after_loss = drawings.len().min(1);
    drawings.splice(after_loss..after_loss, accuracies(report).and_then(|plot| plot.draw()));
    let sent = sent(steps);
    let anything =
        sent.series.iter().flat_map(|series| &series.points).any(|(_, bytes)| *bytes > 0.0);
    match sent.draw() {
        Some(drawing) if anything => drawings.push(drawing),
        Some(_) => notes.push(left_out(&sent.title, "nothing was sent, as on a single rank")),
        None => notes.push(left_out(&sent.title, "metrics.jsonl has no bytes sent")),
    }
    (drawings, notes)
}

fn left_out(title: &str, reason: &str) -> String {
    format!("“{title}” is left out: {reason}.")
}

/// The steps' values of a field; broken where one has none.
fn over_steps(steps: &[Step], field: impl Fn(&Step) -> Option<f64>) -> Vec<(f64, f64)> {
    steps.iter().map(|step| (step.step as f64, field(step).unwrap_or(f64::NAN))).collect()
}

fn step_axis() -> Axis {
    Axis::new(Spread::Even, "step")
}

fn one_line(
    steps: &[Step],
    title: &str,
    explains: &str,
    y: Axis,
    name: &str,
    field: impl Fn(&Step) -> Option<f64>,
) -> Plot {
    let series = vec![Series::new(name, over_steps(steps, field), Look::hue(0))];
    Plot { title: title.into(), explains: explains.into(), x: step_axis(), y, series }
}

fn loss(report: &Report) -> Plot {
    let each = over_steps(report.steps(), |step| step.loss);
    let mut series = Vec::new();
    match smooth(&each) {
        Some((window, mean)) => {
            series.push(Series::new("training loss per step", each, Look::hue(0).faint()));
            series.push(Series::new(format!("its mean over {window} steps"), mean, Look::hue(0)));
        }
        None => series.push(Series::new("training loss per step", each, Look::hue(0))),
    }
    let validation_losses = validation_losses(report);
    if !validation_losses.is_empty() {
        series.push(Series::new(
            "validation loss",
            validation_losses,
            Look::hue(1).dashed().marked(),
        ));
    }
    let (does, unit) = match accuracy(report).is_empty() {
        true => ("predicts the next token", "nats per token"),
        false => ("tells the classes", "nats per sample"),
    };
    Plot {
        title: "Loss".into(),
        explains: format!(
            "How badly the model {does}: on training samples, and on validation samples, which it is not trained on. Both should fall; where \
             the validation loss rises again, the model overfits."
        ),
        x: step_axis(),
        y: Axis::new(Spread::Even, format!("loss, {unit}")),
        series,
    }
}

/// The share of validation samples whose class was predicted, after the steps at which it was
/// measured.
fn accuracy(report: &Report) -> Vec<(f64, f64)> {
    report
        .steps()
        .iter()
        .filter_map(|step| Some((step.step as f64, 100.0 * step.eval_accuracy?)))
        .collect()
}

fn accuracies(report: &Report) -> Option<Plot> {
    let found = accuracy(report);
    (!found.is_empty()).then(|| Plot {
        title: "Accuracy".into(),
        explains: "Of the validation samples, the share whose class the model predicted.".into(),
        x: step_axis(),
        y: Axis::new(Spread::Even, "accuracy, %"),
        series: vec![Series::new("validation accuracy", found, Look::hue(1).dashed().marked())],
    })
}

/// The validation losses: before the first step, after those at which it was measured, and after
/// the last.
fn validation_losses(report: &Report) -> Vec<(f64, f64)> {
    let steps = report.steps();
    let before = report.number("eval_loss_before").map(|loss| (0.0, loss));
    let between = steps.iter().filter_map(|step| Some((step.step as f64, step.eval_loss?)));
    let mut points: Vec<(f64, f64)> = before.into_iter().chain(between).collect();
    if let (Some(last), Some(after)) = (steps.last(), report.number("eval_loss_after"))
        && last.eval_loss.is_none()
    {
        points.push((last.step as f64, after));
    }
    points
}

/// Steps from which on a line is smoothed.
const SMOOTHED: usize = 40;

/// Means over a twentieth of the steps, but of no more than a hundred, and over how many.
fn smooth(points: &[(f64, f64)]) -> Option<(usize, Vec<(f64, f64)>)> {
    let window = (points.len() / 20).clamp(5, 100);
    if points.len() < SMOOTHED {
        return None;
    }
    let mean = |part: &[(f64, f64)]| {
        let finite: Vec<f64> =
            part.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    Some((window, points.windows(window).map(|part| (part[window - 1].0, mean(part))).collect()))
}

fn learning_rate(steps: &[Step]) -> Plot {
    let explains = "How far each step moves the weights: it rises while the optimizer warms up, then follows the schedule.";
    one_line(
        steps,
        "Learning rate",
        explains,
        Axis::new(Spread::FromZero, "learning rate"),
        "learning rate",
        |step| step.learning_rate,
    )
}

fn grad_norm(steps: &[Step], clip: Option<f64>) -> Plot {
    let norms = || steps.iter().filter_map(|step| step.grad_norm).filter(|norm| *norm > 0.0);
    let (least, most) = (norms().fold(f64::INFINITY, f64::min), norms().fold(0.0, f64::max));
    let spread = if most > 50.0 * least { Spread::Log } else { Spread::FromZero };
    let explains = "The length of all gradients as one vector, before clipping: a sudden peak is a sample or a step to look at.";
    let axis = Axis::new(spread, "norm of the gradient");
    let mut plot =
        one_line(steps, "Gradient norm", explains, axis, "gradient norm", |step| step.grad_norm);
    if let (Some(clip), [first, .., last]) = (clip.filter(|clip| *clip <= most), steps) {
        let ends = [(first.step as f64, clip), (last.step as f64, clip)];
        plot.series.push(Series::new(format!("clipped to {clip}"), ends, Look::hue(6).dashed()));
    }
    plot
}

fn tokens_per_second(steps: &[Step]) -> Plot {
    let explains = "Tokens that all ranks together learned from in a second of training; evaluation is not counted.";
    let axis = Axis::new(Spread::FromZero, "tokens per second");
    one_line(steps, "Tokens per second", explains, axis, "tokens per second", |step| {
        step.tokens_per_second
    })
}

fn step_time(steps: &[Step]) -> Plot {
    let explains = "The time of a step until the slowest rank is done: peaks are waiting, for data, memory or another rank.";
    one_line(
        steps,
        "Step time",
        explains,
        Axis::new(Spread::FromZero, "step time, s"),
        "step time",
        |step| step.step_seconds,
    )
}

fn saved_activations(steps: &[Step]) -> Plot {
    bytes(
        steps,
        "Kept for the backward pass",
        "held at the end of the forward pass",
        "What the forward pass holds in memory until the backward pass needs it, and what the same places would hold uncompressed: the gap is \
         what compression saves.",
        &[("saved", |step| step.kept_bytes), ("uncompressed", |step| step.exact_bytes)],
    )
}

fn peak(steps: &[Step]) -> Plot {
    bytes(
        steps,
        "Peak of tensor memory",
        "most in tensors at once",
        "The most that was in tensors at any moment of a step, weights included, on the rank with the most: a device needs at least this.",
        &[("peak", |step| step.peak_bytes)],
    )
}

fn sent(steps: &[Step]) -> Plot {
    bytes(
        steps,
        "Sent by each rank",
        "sent per step",
        "The bytes that a rank sends per step to average gradients over all ranks, and those of exact sums.",
        &[
            ("sent", |step| step.reduced_bytes),
            ("with exact sums", |step| step.exact_reduced_bytes),
        ],
    )
}

/// A name in the legend, and the bytes per step.
type Bytes = (&'static str, fn(&Step) -> Option<f64>);

/// Bytes over steps, the second field dashed.
fn bytes(steps: &[Step], title: &str, label: &str, explains: &str, fields: &[Bytes]) -> Plot {
    let most =
        fields.iter().flat_map(|(_, field)| steps.iter().filter_map(field)).fold(0.0, f64::max);
    let (unit, size) = units::unit_of_bytes(most);
    let series = fields.iter().enumerate().map(|(index, (name, field))| {
        let points = over_steps(steps, |step| field(step).map(|bytes| bytes / size));
        let look = Look::hue(index);
        Series::new(*name, points, if index == 0 { look } else { look.dashed() })
    });
    Plot {
        title: title.into(),
        explains: explains.into(),
        x: step_axis(),
        y: Axis::new(Spread::FromZero, format!("{label}, {unit}")),
        series: series.collect(),
    }
}

/// What a rank's log warns of.
#[derive(Debug, Serialize)]
struct Warned {
    title: String,
    text: String,
}

/// Lines of a log that are shown, the last ones.
const LINES: usize = 20;

/// Where each rank ran, and what it warned of.
fn ranks(dir: &RunDir, world_size: usize) -> (Table, Vec<Warned>) {
    let mut table =
        Table::new("", ["rank", "host", "process", "warnings", "errors", "log"], usize::MAX);
    let mut warned = Vec::new();
    for rank in 0..world_size {
        let path = dir.rank_log(rank);
        let Ok(log) = std::fs::read(&path) else { continue };
        let log = String::from_utf8_lossy(&log);
        let (host, process) = logs::origin(&log)
            .map_or_else(Default::default, |(host, process)| (host, process.to_string()));
        let of_level =
            |level: &str| log.lines().filter(|line| logs::level(line) == Some(level)).count();
        let name = path.strip_prefix(dir.path()).unwrap_or(&path).display().to_string();
        let (warnings, errors) = (of_level("WARN"), of_level("ERROR"));
        table.rows.push(vec![
            rank.to_string(),
            host,
            process,
            warnings.to_string(),
            errors.to_string(),
            name,
        ]);
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| matches!(logs::level(line), Some("WARN" | "ERROR")))
            .collect();
        if !lines.is_empty() {
            let shown = &lines[lines.len().saturating_sub(LINES)..];
            let which = if shown.len() < lines.len() {
                format!(", the last {LINES} of {}", lines.len())
            } else {
                String::new()
            };
            warned.push(Warned {
                title: format!("Warnings and errors of rank {rank}{which}"),
                text: shown.join("\n"),
            });
        }
    }
    (table, warned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    fn page_of(at: &Path, files: &[(&str, &str)]) -> String {
        std::fs::create_dir_all(at.join("logs")).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(at.join(name), text).unwrap());
        page(&Report::read(&RunDir::at(at.to_owned()), 1)).unwrap()
    }

    #[test]
    fn what_a_run_wrote_is_escaped() {
        let at = tempfile::tempdir().unwrap();
        let page = page_of(
            at.path(),
            &[
                ("metrics.jsonl", "{\"step\":1,\"loss\":2}\n"),
                ("config.toml", "[run]\ndir = \"<script>alert(1)</script>\"\n"),
                (
                    "logs/rank-0000.log",
                    "1  INFO x: rank 0 of 1 on a&b, process 3\n2  WARN x: <b>\n",
                ),
            ],
        );
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;")
                && !page.contains("<script"),
            "{page}"
        );
        assert!(page.contains("a&amp;b") && page.contains("WARN x: &lt;b&gt;"));
    }

    #[test]
    fn what_is_absent_is_named() {
        let at = tempfile::tempdir().unwrap();
        let line = "{\"step\":1,\"total_steps\":4,\"loss\":2,\"reduced_bytes\":0,\"exact_reduced_bytes\":0}\n{\"step\":2,\"lo";
        let page = page_of(at.path(), &[("metrics.jsonl", line)]);
        assert!(
            page.contains("“Step time” is left out: metrics.jsonl has no step time."),
            "{page}"
        );
        assert!(page.contains("“Sent by each rank” is left out: nothing was sent"));
        assert!(page.contains("Step 1 of 4: the run is not finished"));
        assert_eq!(page.matches("<figure").count(), 1);
    }

    #[test]
    fn a_run_without_a_step_has_a_page() {
        let at = tempfile::tempdir().unwrap();
        assert!(page_of(at.path(), &[("config.toml", "[run]\n")]).contains("no whole step yet"));
    }

    #[test]
    fn the_mean_is_of_the_last_steps() {
        let points: Vec<(f64, f64)> =
            (1..=40).map(|step| (f64::from(step), f64::from(step))).collect();
        let (window, mean) = smooth(&points).unwrap();
        assert_eq!((window, mean[0], mean.last().copied()), (5, (5.0, 3.0), Some((40.0, 38.0))));
        assert_eq!(smooth(&points[..39]), None);
    }

    #[test]
    fn the_clipped_norm_is_read_from_the_configuration() {
        assert_eq!(clip("[optimizer]\nclip_grad_norm = 0.5\n"), Some(0.5));
        assert_eq!(
            (clip("[optimizer]\nclip_grad_norm = 0.0\n"), clip("no toml"), clip("")),
            (None, None, None)
        );
    }
}
