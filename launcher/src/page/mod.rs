//! Pages for people: one HTML file each, that opens without a network and needs no script.
//!
//! A page is a template of this folder, filled in by [`report`] or [`inspection`]; what it shows
//! are drawn [`plot`]s and [`table`]s.

mod axis;
pub mod inspection;
mod plot;
pub mod report;
mod table;

use crate::failure::Failure;
use anyhow::Context;
use minijinja::{Environment, UndefinedBehavior};
use rustix::fs::{Access, access};
use serde::Serialize;
use std::path::Path;

/// The templates, by the names that they call each other by.
const TEMPLATES: [(&str, &str); 6] = [
    ("base.html", include_str!("base.html")),
    ("page.css", include_str!("page.css")),
    ("plot.html", include_str!("plot.html")),
    ("table.html", include_str!("table.html")),
    ("report.html", include_str!("report.html")),
    ("inspection.html", include_str!("inspection.html")),
];

/// A template filled in. What is put into it is escaped.
fn render(template: &str, context: impl Serialize) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.add_global("version", env!("CARGO_PKG_VERSION"));
    environment
        .add_global("written", chrono::Utc::now().format("%Y-%m-%d at %H:%M UTC").to_string());
    for (name, text) in TEMPLATES {
        environment
            .add_template(name, text)
            .with_context(|| format!("the template {name} is faulty"))?;
    }
    let page = environment.get_template(template).and_then(|template| template.render(context));
    page.with_context(|| format!("cannot fill in the template {template}"))
}

/// The tables of a configuration, each of which stands together.
fn config_tables(config: &str) -> Vec<&str> {
    config.split("\n\n").map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Refuses a place where a page cannot be written: to be asked before the work that fills it.
pub fn check_place(path: &Path) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Failure::Input(format!("cannot write the page {}: {what}", path.display())))
    };
    let folder = folder(path);
    if path.is_dir() || path.file_name().is_none() {
        return refuse("this is a directory; name a file, such as page.html");
    }
    if !folder.is_dir() {
        return refuse(&format!(
            "there is no directory {0}; make it with: mkdir -p {0}",
            folder.display()
        ));
    }
    if access(folder, Access::WRITE_OK).is_err() {
        return refuse(&format!(
            "the directory {} cannot be written to; name a file elsewhere with --html",
            folder.display()
        ));
    }
    Ok(())
}

/// Writes a page whole or not at all.
pub fn write(path: &Path, page: &str) -> anyhow::Result<()> {
    files::write(path, page).with_context(|| format!("cannot write the page {}", path.display()))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_replaces_what_was_there_and_leaves_nothing_beside() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("page.html");
        for text in ["one", "two"] {
            check_place(&path).unwrap();
            write(&path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(at.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_refused_with_its_remedy() {
        let at = tempfile::tempdir().unwrap();
        let refused = |path: &Path| match check_place(path) {
            Err(Failure::Input(message)) => message,
            other => panic!("{other:?}"),
        };
        let missing = refused(&at.path().join("none/page.html"));
        assert!(
            missing.contains("there is no directory") && missing.contains("mkdir -p"),
            "{missing}"
        );
        assert!(refused(at.path()).contains("this is a directory"));
        assert!(check_place(Path::new("page.html")).is_ok(), "the current directory is one");
    }

    #[test]
    fn a_page_that_cannot_be_written_leaves_nothing() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), "").unwrap();
        assert!(write(&path, "text").is_err());
        assert_eq!(std::fs::read_dir(at.path()).unwrap().count(), 1);
    }
}
