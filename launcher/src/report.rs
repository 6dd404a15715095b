//! What a run came to: a table for people, an object for programs.

use crate::{
    metrics::{Course, Follower, Step},
    page,
    run_dir::RunDir,
};
use comfy_table::{Table, presets};
use config::units;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// A run, from its `metrics.jsonl` and `summary.json`.
#[derive(Debug)]
pub struct Report {
    dir: RunDir,
    world_size: usize,
    steps: Vec<Step>,
    course: Course,
    /// What the trainer wrote; empty if it wrote nothing.
    summary: Map<String, Value>,
    /// The page, once it is written.
    page: Option<PathBuf>,
}

impl Report {
    /// Reads a run directory. What is not there is left out of the report.
    pub fn read(dir: &RunDir, world_size: usize) -> Self {
        let steps = Follower::new(dir.metrics()).poll();
        let mut course = Course::default();
        steps.iter().for_each(|step| course.add(step.clone()));
        let summary = std::fs::read(dir.summary())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { dir: dir.clone(), world_size, steps, course, summary, page: None }
    }

    /// Writes the page into the run's directory.
    pub fn write_page(&mut self) -> anyhow::Result<()> {
        let path = self.dir.report();
        page::write(&path, &page::report::page(self)?)?;
        self.page = Some(path);
        Ok(())
    }

    /// The run's directory.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Its steps so far.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether the trainer has written its summary, the last thing that it does.
    pub fn is_finished(&self) -> bool {
        !self.summary.is_empty()
    }

    /// A number of the trainer's summary.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.summary.get(key)?.as_f64()
    }

    fn adapter(&self) -> Option<String> {
        let named = self.summary.get("adapter").and_then(Value::as_str).map(str::to_owned);
        named.or_else(|| {
            self.dir.adapter().exists().then(|| self.dir.adapter().display().to_string())
        })
    }

    fn model(&self) -> Option<String> {
        self.summary.get("model").and_then(Value::as_str).map(str::to_owned)
    }

    /// Accuracy and macro F1 of validation samples after the last step, where samples have classes.
    pub fn classes(&self) -> Option<[f64; 2]> {
        let classes = self.summary.get("classes")?;
        Some([classes["accuracy"].as_f64()?, classes["macro_f1"].as_f64()?])
    }

    fn losses(&self) -> (Option<f64>, Option<f64>) {
        let loss = |step: &Option<Step>| step.as_ref()?.loss;
        (loss(&self.course.first), loss(&self.course.last))
    }

    /// What the table says: names and values.
    pub fn rows(&self) -> Vec<[String; 2]> {
        let mut rows: Vec<[String; 2]> = Vec::new();
        let mut row = |name: &str, value: Option<String>| {
            rows.extend(value.map(|value| [name.to_owned(), value]))
        };
        let course = &self.course;

        row(
            "validation loss, before → after",
            change(self.number("eval_loss_before"), self.number("eval_loss_after")),
        );
        row(
            "validation accuracy, macro F1",
            self.classes()
                .map(|[accuracy, f1]| format!("{:.2} %, {:.2} %", 100.0 * accuracy, 100.0 * f1)),
        );
        let (first, last) = self.losses();
        row("training loss, first → last step", change(first, last));
        let steps = course.steps();
        let seconds = self.number("seconds").unwrap_or_else(|| course.seconds());
        let ranks = if self.world_size == 1 {
            "1 rank".to_owned()
        } else {
            format!("{} ranks", self.world_size)
        };
        row(
            "steps",
            (steps > 0).then(|| format!("{steps} on {ranks} in {}", units::seconds(seconds))),
        );
        row("step time", course.step_seconds().map(units::seconds));
        row("tokens per second", course.tokens_per_second().map(units::rate));
        row("saved for backward", against(course.kept_bytes(), course.exact_bytes(), "exactly"));
        row("peak of tensor memory", course.peak_bytes().map(units::bytes));
        row(
            "sent by each rank",
            against(course.reduced_bytes(), course.exact_reduced_bytes(), "with exact sums"),
        );
        row("adapter", self.adapter());
        row("model", self.model());
        row("metrics", Some(self.dir.metrics().display().to_string()));
        row("report", self.page.as_ref().map(|page| page.display().to_string()));
        rows
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).add_rows(self.rows());
        table.to_string()
    }

    /// The object: the trainer's summary, and what the metrics add to it.
    pub fn json(&self) -> Value {
        let (first, last) = self.losses();
        let course = &self.course;
        let mut object = json!({
            "run_dir": self.dir.path(),
            "ranks": self.world_size,
            "steps": course.steps(),
            "seconds": course.seconds(),
            "loss_first": first,
            "loss_last": last,
            "step_seconds": course.step_seconds(),
            "tokens_per_second": course.tokens_per_second(),
            "kept_bytes": course.kept_bytes(),
            "exact_bytes": course.exact_bytes(),
            "peak_bytes": course.peak_bytes(),
            "reduced_bytes": course.reduced_bytes(),
            "exact_reduced_bytes": course.exact_reduced_bytes(),
            "config": self.dir.config(),
            "metrics": self.dir.metrics(),
            "logs": self.dir.logs(),
            "adapter": self.adapter(),
            "report": self.page,
        });
        if let Value::Object(fields) = &mut object {
            fields.extend(self.summary.clone());
        }
        object
    }

    /// Prints the one or the other on stdout.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            println!("{}", self.table());
        }
    }
}

fn change(before: Option<f64>, after: Option<f64>) -> Option<String> {
    let say =
        |value: Option<f64>| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.4}"));
    (before.is_some() || after.is_some()).then(|| format!("{} → {}", say(before), say(after)))
}

fn against(value: Option<f64>, exact: Option<f64>, how: &str) -> Option<String> {
    let value = value?;
    Some(match exact {
        Some(exact) if value > 0.0 => {
            format!(
                "{}; {how} {} ({})",
                units::bytes(value),
                units::bytes(exact),
                units::ratio(exact / value)
            )
        }
        _ => units::bytes(value),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use config::Run;
    use std::path::Path;

    fn dir(at: &Path) -> RunDir {
        let config = at.join("c.toml");
        std::fs::write(&config, "[model]\npath='m'\n[lora]\n[data]\ntrain='t'\n").unwrap();
        RunDir::new(&Run::load(&config, &[format!("run.dir={}", at.display())]).unwrap())
    }

    #[test]
    fn a_run_is_summed_up_from_its_files() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(at.path());
        let line = |step, loss| {
            format!(
                "{{\"step\":{step},\"loss\":{loss},\"step_seconds\":2,\"tokens\":100,\"kept_bytes\":1000,\"exact_bytes\":4000,\
                 \"reduced_bytes\":10,\"exact_reduced_bytes\":100}}\n"
            )
        };
        std::fs::write(dir.metrics(), line(1, 3.0) + &line(2, 2.0)).unwrap();
        std::fs::write(
            dir.summary(),
            "{\"eval_loss_before\":3.5,\"eval_loss_after\":2.5,\"adapter\":\"a/b\"}",
        )
        .unwrap();
        let report = Report::read(&dir, 2);
        let table = report.table();
        for says in [
            "3.5000 → 2.5000",
            "3.0000 → 2.0000",
            "2 on 2 ranks",
            "1.00 kB; exactly 4.00 kB (4.00 ×)",
            "20 B; with exact sums 200 B (10.0 ×)",
            "a/b",
        ] {
            assert!(table.contains(says), "no {says:?} in\n{table}");
        }
        let json = report.json();
        assert_eq!(
            (json["steps"].as_u64(), json["eval_loss_after"].as_f64()),
            (Some(2), Some(2.5))
        );
        assert_eq!(json["tokens_per_second"].as_f64(), Some(50.0));
    }

    #[test]
    fn a_run_that_wrote_nothing_is_reported_without_numbers() {
        let at = tempfile::tempdir().unwrap();
        let report = Report::read(&dir(at.path()), 1);
        assert!(!report.table().contains("loss"));
        assert_eq!(report.json()["steps"].as_u64(), Some(0));
    }
}
