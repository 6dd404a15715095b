use proptest::prelude::*;

use super::*;
use crate::source::{Source, files};

/// The records of a file and where they stand, read `most` at a time, each block by a new reader.
fn read(name: &str, content: &[u8], most: usize) -> Result<Vec<(usize, String)>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let files = files(&[Source::from(path)])?;
    let (mut found, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let mut records = Records::new(&files, cursor)?;
        let Some(block) = records.block(most)? else {
            assert_eq!(records.bytes_before(), records.bytes());
            return Ok(found);
        };
        cursor = records.cursor();
        assert!(block.records.len() <= most && records.bytes_before() <= records.bytes());
        found.extend(block.records.iter().map(|raw| (raw.line, shown(raw))));
    }
}

fn shown(raw: &Raw) -> String {
    match &raw.content {
        Content::Json(bytes) | Content::Text(bytes) => String::from_utf8_lossy(bytes).trim_end().to_owned(),
        Content::Row(fields) => Value::from(fields.clone()).to_string(),
        Content::Bad(fault) => format!("bad: {}", fault.problem),
    }
}

fn seen(records: &[(usize, String)]) -> Vec<(usize, &str)> {
    records.iter().map(|(line, text)| (*line, text.as_str())).collect()
}

#[test]
fn lines_keep_their_numbers_past_blank_ones_and_windows_ends() {
    for most in [1, 2, 9] {
        let records = read("x.jsonl", b"\xEF\xBB\xBF{\"a\":1}\r\n\r\n  \n{\"b\":2}", most).unwrap();
        assert_eq!(seen(&records), [(1, "{\"a\":1}"), (4, "{\"b\":2}")]);
    }
}

#[test]
fn elements_of_an_array_know_their_lines() {
    for most in [1, 2, 9] {
        let records = read("x.json", b"\xEF\xBB\xBF\n[\n {\"a\": 1},\n\n 2\n, 3]\n", most).unwrap();
        assert_eq!(seen(&records), [(3, "{\"a\": 1}"), (5, "2"), (6, "3")]);
    }
}

#[test]
fn paragraphs_split_at_blank_lines_only() {
    for most in [1, 2, 9] {
        let records = read("x.txt", b"\xEF\xBB\xBF\n\none\ntwo\n \t\nthree\r\n\r\n\n  four\n", most).unwrap();
        assert_eq!(seen(&records), [(3, "one\ntwo"), (6, "three"), (9, "  four")]);
    }
}

#[test]
fn rows_of_a_table_have_the_known_columns_and_broken_ones_are_told() {
    for most in [1, 2, 9] {
        let records = read("x.csv", b"\xEF\xBB\xBFid, text \n1,\"a\nb\"\n2\n3,\xFF\n4,d\n", most).unwrap();
        assert_eq!((records.len(), &records[0], &records[3]), (4, &(2, "{\"text\":\"a\\nb\"}".into()), &(6, "{\"text\":\"d\"}".into())));
        assert!(records[1].0 == 4 && records[1].1.starts_with("bad: broken CSV"), "{records:?}");
        assert!(records[2].0 == 5 && records[2].1.contains("UTF-8"), "{records:?}");
    }
    let error = read("x.csv", b"id,prompt\n1,a\n", 9).unwrap_err().to_string();
    assert!(error.contains("it has id, prompt") && error.contains("x.csv"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic_and_in_any_blocks_alike(
        name in prop::sample::select(vec!["x.jsonl", "x.json", "x.txt", "x.csv", "x.parquet"]),
        content in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "([\\[\\]{}\",: \n\r\t]|text|messages|role|content|null|-1e9|\\\\u00e9|\\\\ud800){0,60}".prop_map(String::into_bytes),
        ],
        most in 1_usize..5
    ) {
        let whole = read(name, &content, usize::MAX).map_err(|error| error.to_string().replace(char::is_numeric, ""));
        let parts = read(name, &content, most).map_err(|error| error.to_string().replace(char::is_numeric, ""));
        prop_assert_eq!(whole.is_ok(), parts.is_ok());
        if let (Ok(whole), Ok(parts)) = (whole, parts) {
            prop_assert_eq!(whole, parts);
        }
        for format in [crate::Format::Auto, crate::Format::Conversations, crate::Format::Text] {
            // Whatever it says, it says it without a panic.
            let _ = object(&content).map(|fields| crate::record::Reader::default().from_fields(fields, format));
        }
    }
}
