//! Texts and the classes they belong to: JSON records, CSV, Parquet and Arrow.

use std::path::Path;

use parquet::record::Field;
use serde_json::{Map, Value};

use crate::arrow_rows::ArrowRows;
use crate::csv_rows::CsvRows;
use crate::error::{Error, Place, Result};
use crate::input::Input;
use crate::json_rows;
use crate::label::{self, Label};
use crate::parquet_rows;
use crate::record::{Fault, fault};
use crate::records::{Cursor, Rows};
use crate::source::{self, Format, Kind};

/// The keys of a record, or the columns of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelKeys {
    /// That of the text.
    pub text: String,
    /// That of the class.
    pub label: String,
}

impl Default for LabelKeys {
    fn default() -> Self {
        Self { text: "text".into(), label: "label".into() }
    }
}

/// A text and the number of its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// The number of its class, from 0.
    pub label: u32,
}

/// The rows of a file and the names of the classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledTexts {
    /// The rows, in the order of the file.
    pub rows: Vec<Labelled>,
    /// The names of the classes, in the order of their numbers.
    pub labels: Vec<String>,
}

/// A row before its class has a number.
struct Named {
    line: usize,
    text: String,
    label: Label,
}

/// Reads the rows of a `.csv` or `.tsv` file (with a header, RFC 4180), of a `.parquet`, `.arrow`
/// or `.feather` file, or of a JSON file (one record a line, or an array of records); CSV and JSON
/// may be compressed with gzip or zstd. The classes are `labels` where they are given; else those
/// that a Parquet or Arrow file names (as Hugging Face's datasets do); else those that occur,
/// numbers in their order before names in theirs.
///
/// # Errors
/// If the file cannot be read, or at the first row that has no text or no class, or one that is not
/// among `labels`, with its line.
pub fn read_labelled(
    path: &Path,
    keys: &LabelKeys,
    labels: Option<&[String]>,
) -> Result<LabelledTexts> {
    // Whatever has the name of no table is JSON.
    let (rows, named) = match source::kind(path, Format::Conversations)? {
        Kind::Parquet => parquet_table(path, keys)?,
        Kind::Arrow => arrow_table(path, keys)?,
        Kind::Csv => (table(path, keys)?, None),
        _ => (
            records(
                json_rows::open(Input::open(path)?, &[&keys.text, &keys.label], Cursor::default())?
                    .as_mut(),
                path,
                keys,
            )?,
            None,
        ),
    };
    let labels = match labels.map(<[String]>::to_vec).or(named) {
        Some(labels) => labels,
        None => label::occurring(rows.iter().map(|row| &row.label)),
    };
    let number = |row: Named| {
        let place = || Place { path: path.to_owned(), line: row.line };
        Ok(Labelled { label: row.label.number(&labels, place)?, text: row.text })
    };
    let rows = rows.into_iter().map(number).collect::<Result<Vec<_>>>()?;
    Ok(LabelledTexts { rows, labels })
}

/// Rows, and the names of the classes if the file has them.
fn parquet_table(path: &Path, keys: &LabelKeys) -> Result<(Vec<Named>, Option<Vec<String>>)> {
    let mut rows = Vec::new();
    let names = parquet_rows::read(path, [&keys.text, &keys.label], |number, [text, label]| {
        let text = match text {
            Field::Str(text) => text,
            other => {
                return fault(
                    format!("`{}` is {other} and not a string", keys.text),
                    "name a column of strings",
                );
            }
        };
        rows.push(Named { line: number, text, label: Label::of_field(&label, &keys.label)? });
        Ok(())
    })?;
    Ok((rows, names))
}

fn arrow_table(path: &Path, keys: &LabelKeys) -> Result<(Vec<Named>, Option<Vec<String>>)> {
    let mut rows = ArrowRows::open(path, &[&keys.text, &keys.label])?;
    for key in [&keys.text, &keys.label] {
        if !rows.names().any(|name| name == key) {
            let names = rows.names().collect::<Vec<_>>().join(", ");
            return Err(Error::file(
                path,
                format!("it has no column `{key}`, but {names}"),
                "give the names of its columns",
            ));
        }
    }
    let named = rows.class_names(&keys.label);
    Ok((records(&mut rows, path, keys)?, named))
}

fn records(rows: &mut dyn Rows, path: &Path, keys: &LabelKeys) -> Result<Vec<Named>> {
    let mut found = Vec::new();
    while let Some(raw) = rows.next()? {
        let row = raw.fields().and_then(|fields| record(raw.line, fields, keys));
        found.push(row.map_err(|Fault { problem, remedy }| Error::Record {
            place: raw.place(path),
            problem,
            remedy,
        })?);
    }
    Ok(found)
}

fn record(
    line: usize,
    mut fields: Map<String, Value>,
    keys: &LabelKeys,
) -> std::result::Result<Named, Fault> {
    let remedy = || {
        format!(
            "a record is {{{:?}: \"...\", {:?}: ...}}; name other keys where it has others",
            keys.text, keys.label
        )
    };
    let text = match fields.remove(&keys.text) {
        Some(Value::String(text)) => text,
        Some(other) => {
            return fault(format!("`{}` is {other} and not a string", keys.text), remedy());
        }
        None => return fault(format!("a record has no `{}`", keys.text), remedy()),
    };
    let Some(label) = fields.get(&keys.label) else {
        return fault(format!("a record has no `{}`", keys.label), remedy());
    };
    let label = Label::of_json(label, &keys.label)?;
    Ok(Named { line, text, label })
}

fn table(path: &Path, keys: &LabelKeys) -> Result<Vec<Named>> {
    let mut table = CsvRows::open(path, &[&keys.text, &keys.label])?;
    let column = |key: &str| {
        table.column(key).ok_or_else(|| Error::Record {
            place: Place { path: path.to_owned(), line: 1 },
            problem: format!(
                "the header has no column `{key}`, but {}",
                table.header().iter().collect::<Vec<_>>().join(", ")
            ),
            remedy: "name the columns of text and label in the first row, or give their names"
                .into(),
        })
    };
    let (text, label) = (column(&keys.text)?, column(&keys.label)?);
    let mut rows = Vec::new();
    while let Some((line, row)) = table.next_row()? {
        let row = row.map_err(|Fault { problem, remedy }| Error::Record {
            place: Place { path: path.to_owned(), line },
            problem,
            remedy,
        })?;
        rows.push(Named {
            line,
            text: row[text].to_owned(),
            label: Label::of_text(row[label].trim()),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, labels: Option<&[&str]>) -> Result<LabelledTexts> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let labels =
            labels.map(|labels| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>());
        read_labelled(&path, &LabelKeys::default(), labels.as_deref())
    }

    fn seen(texts: &LabelledTexts) -> Vec<(&str, u32)> {
        texts.rows.iter().map(|row| (row.text.as_str(), row.label)).collect()
    }

    #[test]
    fn records_and_tables_say_the_same() {
        let lines = "{\"text\": \"a, b\", \"label\": \"spam\"}\n\n{\"text\": \"c\\nd\", \"label\": \"ham\"}\n";
        let table = "label,text\nspam,\"a, b\"\nham,\"c\nd\"\n";
        let array = format!("[{}]", lines.trim().replace("\n\n", ","));
        let tabs = "label\ttext\nspam\ta, b\nham\t\"c\nd\"\n";
        for (name, text) in [
            ("x.jsonl", lines),
            ("x.csv", table),
            ("x.csv.gz", table),
            ("x.tsv", tabs),
            ("x.json", &array),
        ] {
            let texts = read(name, text, None).unwrap();
            assert_eq!(texts.labels, ["ham", "spam"], "{name}");
            assert_eq!(seen(&texts), [("a, b", 1), ("c\nd", 0)], "{name}");
        }
    }

    #[test]
    fn parquet_files_name_classes() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/parquet/texts.parquet");
        let texts = read_labelled(&file, &LabelKeys::default(), None).unwrap();
        assert_eq!(texts.labels, ["ham", "spam"]);
        assert_eq!(seen(&texts), [("a, b", 1), ("c\nd \"e\"", 0), ("ü", 1)]);
        // Numbers of classes that are called otherwise.
        let other = read_labelled(&file, &LabelKeys::default(), Some(&["no".into(), "yes".into()]))
            .unwrap();
        assert_eq!(seen(&other), seen(&texts));
        let refused = |text: &str, labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
            let keys = LabelKeys { text: text.into(), label: "label".into() };
            read_labelled(&file, &keys, Some(&labels)).unwrap_err().to_string()
        };
        assert!(
            refused("text", &["one"]).contains("texts.parquet:1; "),
            "{}",
            refused("text", &["one"])
        );
        assert!(
            refused("id", &["a", "b"]).contains("`id` is 7 and not a string, at"),
            "{}",
            refused("id", &["a", "b"])
        );
        assert!(
            refused("message", &["a", "b"]).contains("no column `message`, but id, text, label"),
            "{}",
            refused("message", &["a", "b"])
        );
        let error = read("x.parquet", "PAR1 and no more", None).unwrap_err().to_string();
        assert!(
            error.contains("no whole Parquet file")
                && error.contains("x.parquet")
                && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn arrow_files_name_classes_too() {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables/labelled.arrow");
        let texts = read_labelled(&file, &LabelKeys::default(), None).unwrap();
        assert_eq!(texts.labels, ["ham", "spam"]);
        assert_eq!(seen(&texts), [("a, b", 1), ("c\nd \"e\"", 0), ("ü", 1)]);
        let keys = LabelKeys { text: "message".into(), label: "label".into() };
        let error = read_labelled(&file, &keys, None).unwrap_err().to_string();
        assert!(error.contains("no column `message`, but id, text, label"), "{error}");
    }

    #[test]
    fn numbers_are_classes_in_their_order_and_may_stand_for_names() {
        let lines = "{\"text\": \"a\", \"label\": 10}\n{\"text\": \"b\", \"label\": 9}\n";
        assert_eq!(read("x.jsonl", lines, None).unwrap().labels, ["9", "10"]);
        let table = "text,label\na,1\nb,0\n";
        assert_eq!(
            seen(&read("x.csv", table, Some(&["ham", "spam"])).unwrap()),
            [("a", 1), ("b", 0)]
        );
        assert_eq!(
            seen(&read("x.csv", table, Some(&["1", "0"])).unwrap()),
            [("a", 0), ("b", 1)],
            "a name goes before a number"
        );
    }

    #[test]
    fn what_is_wrong_is_one_line_with_its_place() {
        let known: Option<&[&str]> = Some(&["ham", "spam"]);
        for (name, text, labels, expected, line) in [
            (
                "x.jsonl",
                "{\"text\": \"a\", \"label\": \"ham\"}\n{\"text\": \"b\", \"label\": \"eggs\"}",
                known,
                "\"eggs\" is not one of \"ham\", \"spam\"",
                2,
            ),
            ("x.csv", "text,label\na,ham\n\"b\nc\",2\n", known, "\"2\" is not one of", 3),
            ("x.jsonl", "\n{\"text\": 3, \"label\": 1}", None, "`text` is 3 and not a string", 2),
            (
                "x.jsonl",
                "{\"text\": \"a\", \"label\": 0.5}",
                None,
                "`label` is 0.5 and no class",
                1,
            ),
            ("x.jsonl", "{\"text\": \"a\"}", None, "no `label`", 1),
            ("x.csv", "message,label\na,ham\n", None, "no column `text`, but message, label", 1),
            ("x.csv", "text,label\na,ham\nb\n", None, "broken CSV", 3),
        ] {
            let error = read(name, text, labels).unwrap_err().to_string();
            assert!(
                error.contains(expected)
                    && error.contains(&format!("{name}:{line};"))
                    && !error.contains('\n'),
                "{error}"
            );
        }
    }
}
