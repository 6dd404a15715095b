//! The page of the command line in `docs/reference/`, made from clap's definitions.

use clap::{Arg, Command};
use std::fmt::Write;

/// The page that describes every command of `cli`, in Markdown.
pub fn command_line(cli: &Command) -> String {
    let mut page = String::from(INTRODUCTION);
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_command(&mut page, command);
    }
    page
}

const INTRODUCTION: &str = "\
# Command line reference

<!-- Generated from launcher/src by `LORACT_BLESS=1 cargo test --release -p loract --test reference`. Do not edit. -->

`loract COMMAND --help` prints the same. Exit codes: 0 done; 2 wrong use, configuration or input; 75 stopped by a signal after a
checkpoint, run again to resume; 1 any other failure.
";

fn write_command(page: &mut String, command: &Command) {
    let name = command.get_name();
    let usage = command.clone().bin_name(format!("loract {name}")).render_usage().to_string();
    let about = command
        .get_long_about()
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "\n## `loract {name}`\n\n{about}\n\n```text\n{}\n```\n\n",
        usage.trim_start_matches("Usage: ")
    );
    for argument in command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
    {
        let help = argument
            .get_long_help()
            .or(argument.get_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = writeln!(
            page,
            "- `{}`: {}{}",
            spelling(argument),
            help.replace('\n', " "),
            details(argument)
        );
    }
    if let Some(examples) = command.get_after_help() {
        let _ = write!(page, "\n```text\n{examples}\n```\n");
    }
}

/// As it is typed: `-n, --ranks <N>`, `<CONFIG>`.
fn spelling(argument: &Arg) -> String {
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let takes_value = argument.get_action().takes_values();
    let value = argument
        .get_value_names()
        .filter(|_| takes_value)
        .map(|names| format!("<{}>", names.join("> <")));
    let words: Vec<String> =
        (!flags.is_empty()).then(|| flags.join(", ")).into_iter().chain(value).collect();
    words.join(" ")
}

/// The valid and the default values.
fn details(argument: &Arg) -> String {
    if !argument.get_action().takes_values() {
        return String::new();
    }
    let valid: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let default: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    let valid =
        if valid.is_empty() { String::new() } else { format!(". One of {}", valid.join(", ")) };
    let default = if default.is_empty() {
        String::new()
    } else {
        format!(". Default: {}", default.join(", "))
    };
    valid + &default
}
