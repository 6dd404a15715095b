//! The pages: every plot of a run and of an inspection is there, and nothing in a page asks a
//! network.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place};
use serde_json::Value;
use std::{fs, path::Path};

/// A run of three steps, the last line not wholly written.
fn write_run(dir: &Path) {
    fs::create_dir_all(dir.join("logs")).unwrap();
    let line = |step: u64, more: &str| {
        format!(
            "{{\"step\":{step},\"total_steps\":4,\"loss\":{loss},\"learning_rate\":0.001,\"grad_norm\":1.5,\"tokens\":512,\
             \"tokens_per_second\":256.0,\"step_seconds\":2.0,\"kept_bytes\":9500000,\"exact_bytes\":17800000,\"peak_bytes\":360000000,\
             \"reduced_bytes\":2000,\"exact_reduced_bytes\":9000{more}}}\n",
            loss = 5.0 - step as f64 / 4.0
        )
    };
    let metrics =
        line(1, "") + &line(2, ",\"eval_loss\":4.25") + &line(3, "") + "{\"step\":4,\"total_st";
    fs::write(dir.join("metrics.jsonl"), metrics).unwrap();
    fs::write(dir.join("summary.json"), "{\"eval_loss_before\":4.75}").unwrap();
    fs::write(dir.join("config.toml"), "[run]\nseed = 7\n\n[optimizer]\nclip_grad_norm = 1.0\n")
        .unwrap();
    for rank in 0..2 {
        let log = format!(
            "1  INFO loract::logs: rank {rank} of 2 on node{rank}, process 17\n2  WARN loract: slow\n"
        );
        fs::write(dir.join(format!("logs/rank-{rank:04}.log")), log).unwrap();
    }
}

#[track_caller]
fn assert_done(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

/// Each plot has an axis with a label both ways, a title and a description, a line, a legend and an
/// explanation.
#[track_caller]
fn assert_plots(page: &str, titles: &[&str]) {
    let figures: Vec<&str> =
        page.split("<figure").skip(1).map(|rest| rest.split("</figure>").next().unwrap()).collect();
    for title in titles {
        let title = format!("<h3>{title}</h3>");
        let figure = figures.iter().find(|figure| figure.contains(&title));
        let figure = figure.unwrap_or_else(|| panic!("no plot {title}"));
        for part in [
            "role=\"img\"",
            "<title",
            "<desc",
            "class=\"label\"",
            "class=\"series",
            "class=\"legend\"",
            "<figcaption>",
        ] {
            assert!(figure.contains(part), "{title} has no {part}: {figure}");
        }
        assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
    }
    assert_eq!(figures.len(), titles.len(), "a plot that is not expected");
}

/// Nothing in it can be a request to a host, nor run.
#[track_caller]
fn assert_self_contained(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    for asks in [
        "http:", "https:", "<script", "<link", "<img", "<iframe", "@import", "url(", " src=",
        "xmlns",
    ] {
        assert!(!page.contains(asks), "the page has {asks}");
    }
    assert!(page.contains("Content-Security-Policy\" content=\"default-src 'none'"));
}

#[test]
fn a_run_becomes_a_page_with_every_plot() {
    let place = Place::new();
    write_run(&place.run_dir());
    let ended = place.run(place.loract(&["report"]).arg(place.run_dir()));
    assert_done(&ended);
    let path = place.run_dir().join("report.html");
    assert_eq!(ended.stdout, format!("{}\n", path.display()));
    let page = fs::read_to_string(path).unwrap();
    assert_self_contained(&page);
    assert_plots(
        &page,
        &[
            "Loss",
            "Learning rate",
            "Gradient norm",
            "Tokens per second",
            "Step time",
            "Kept for the backward pass",
            "Peak of tensor memory",
            "Sent by each rank",
        ],
    );
    for says in [
        "Step 3 of 4",
        "validation loss",
        "3 on 2 ranks",
        "9.50 MB; exactly 17.8 MB",
        "seed = 7",
        "node1",
        "WARN loract: slow",
    ] {
        assert!(page.contains(says), "the page does not say {says}");
    }
}

#[test]
fn the_numbers_of_a_run_are_printed_without_a_page() {
    let place = Place::new();
    write_run(&place.run_dir());
    let before = place.listing();
    let ended = place.run(place.loract(&["report", "--json"]).arg(place.run_dir()));
    assert_done(&ended);
    let answer: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (answer["steps"].as_u64(), answer["ranks"].as_u64(), answer["loss_last"].as_f64()),
        (Some(3), Some(2), Some(4.25))
    );
    assert_eq!(place.listing(), before, "something was written");
}

#[test]
fn a_page_is_written_where_it_is_asked_for() {
    let place = Place::new();
    write_run(&place.run_dir());
    let path = place.at("page.html");
    fs::write(&path, "an older page").unwrap();
    assert_done(&place.run(place.loract(&["report", "--html"]).arg(&path).arg(place.run_dir())));
    assert_self_contained(&fs::read_to_string(path).unwrap());
    assert!(!place.run_dir().join("report.html").exists());
}

#[test]
fn what_is_no_run_and_what_is_no_place_are_refused() {
    let place = Place::new();
    write_run(&place.run_dir());
    let refused = |arguments: &[&str], says: &[&str]| {
        let ended = place.run(&mut place.loract(arguments));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);
        says.iter().for_each(|words| {
            assert!(ended.stderr.contains(words), "{words:?} is not said: {}", ended.stderr)
        });
    };
    fs::create_dir(place.at("empty")).unwrap();
    refused(&["report", "none"], &["none does not exist", "give the [run] dir"]);
    refused(&["report", "empty"], &["empty is not the directory of a run", "metrics.jsonl"]);
    refused(&["report", "run.toml"], &["run.toml is a file"]);
    refused(&["report", "run", "--html", "none/page.html"], &["none/page.html", "mkdir -p none"]);
    // Before anything is looked at: that the data is missing is not seen.
    fs::remove_file(place.at("batches.safetensors")).unwrap();
    refused(
        &["inspect", "run.toml", "--html", "none/page.html"],
        &["none/page.html", "mkdir -p none"],
    );
    refused(&["inspect", "run.toml", "--html", "empty"], &["this is a directory"]);
}

#[test]
fn a_launched_run_has_its_page() {
    let place = Place::new();
    let ended = place.run(&mut place.launch());
    assert_done(&ended);
    let path = place.run_dir().join("report.html");
    assert!(ended.stdout.contains(path.to_str().unwrap()), "{}", ended.stdout);
    let page = fs::read_to_string(path).unwrap();
    assert_self_contained(&page);
    assert!(
        page.contains("A finished run of 8 steps") && page.contains("<h3>Sent by each rank</h3>")
    );
}

#[test]
fn an_inspection_becomes_a_page_with_every_plot() {
    let place = Place::new();
    let path = place.at("page.html");
    let ended = place.run(
        place
            .loract(&[
                "inspect",
                "run.toml",
                "--batches",
                "1",
                "--bits",
                "4",
                "--bits",
                "8",
                "--html",
            ])
            .arg(&path),
    );
    assert_done(&ended);
    assert!(
        ended.stdout.contains("gradients against exact ones")
            && ended.stdout.ends_with(&format!("\n{}\n", path.display()))
    );
    let page = fs::read_to_string(path).unwrap();
    assert_self_contained(&page);
    let sites = page.matches("<h3 class=\"site\">").count();
    assert_eq!(sites, 8, "each name of a site");
    let mut titles = vec![
        "Direction of the gradients, by method",
        "Error of the gradients, by method",
        "Each site alone, layer by layer",
        "Methods at 4 bits per element, layer by layer",
        "Methods at 8 bits per element, layer by layer",
    ];
    for _ in 0..sites {
        titles.extend(["The least error of any rank", "Every method at equal size"]);
    }
    assert_plots(&page, &titles);
}
