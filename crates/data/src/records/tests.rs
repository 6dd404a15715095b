use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::input::RECORD_LIMIT;
use crate::source::{Source, files};

/// The records of a file and where they stand, read `most` at a time, each block by a new reader.
fn read(name: &str, content: &[u8], most: usize) -> Result<Vec<(usize, String)>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    read_file(&path, most)
}

pub(super) fn read_file(path: &Path, most: usize) -> Result<Vec<(usize, String)>> {
    let files = files(&[Source::from(path)])?;
    let (mut found, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let reader = Reader::default();
        let mut records = Records::new(&files, &reader, cursor)?;
        let Some(block) = records.block(most)? else {
            assert_eq!(records.bytes_before(), bytes(&files)?);
            return Ok(found);
        };
        cursor = records.cursor();
        assert!(block.records.len() <= most && records.bytes_before() <= bytes(&files)?);
        found.extend(block.records.iter().map(|raw| (raw.line, shown(raw))));
    }
}

fn error(name: &str, content: &[u8]) -> String {
    match read(name, content, 9) {
        Err(error) => error.to_string(),
        Ok(records) => panic!("{} records", records.len()),
    }
}

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables").join(name)
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

fn shown(raw: &Raw) -> String {
    match &raw.content {
        Content::Json(bytes) | Content::Text(bytes) => {
            String::from_utf8_lossy(bytes).trim_end().to_owned()
        }
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
        let records =
            read("x.txt", b"\xEF\xBB\xBF\n\none\ntwo\n \t\nthree\r\n\r\n\n  four\n", most).unwrap();
        assert_eq!(seen(&records), [(3, "one\ntwo"), (6, "three"), (9, "  four")]);
    }
}

#[test]
fn rows_of_a_table_have_the_known_columns_and_broken_ones_are_told() {
    for most in [1, 2, 9] {
        let records =
            read("x.csv", b"\xEF\xBB\xBFid, text \n1,\"a\nb\"\n2\n3,\xFF\n4,d\n", most).unwrap();
        assert_eq!(
            (records.len(), &records[0], &records[3]),
            (4, &(2, "{\"text\":\"a\\nb\"}".into()), &(6, "{\"text\":\"d\"}".into()))
        );
        assert!(records[1].0 == 4 && records[1].1.starts_with("bad: broken CSV"), "{records:?}");
        assert!(records[2].0 == 5 && records[2].1.contains("UTF-8"), "{records:?}");
    }
    let error = read("x.csv", b"id,prompt\n1,a\n", 9).unwrap_err().to_string();
    assert!(error.contains("it has id, prompt") && error.contains("x.csv"), "{error}");
}

#[test]
fn compressed_text_is_the_same_as_plain_in_any_blocks_and_members() {
    let lines: String =
        (0..40).map(|number| format!("{{\"text\": \"number {number}\"}}\n")).collect();
    let array = format!("\u{feff}\n[{}\n]", lines.trim_end().replace('\n', ",\n"));
    let table: String = std::iter::once("id,text\n".into())
        .chain((0..40).map(|number| format!("{number},\"a\nb {number}\"\n")))
        .collect();
    let paragraphs: String = (0..40).map(|number| format!("one\nof {number}\n\n")).collect();
    for (name, text) in
        [("x.jsonl", &lines), ("x.json", &array), ("x.csv", &table), ("x.txt", &paragraphs)]
    {
        let expected = read(name, text.as_bytes(), 9).unwrap();
        assert_eq!(expected.len(), 40);
        let (first, rest) = text.as_bytes().split_at(text.len() / 3);
        let several = [gzip(first), gzip(b""), gzip(rest)].concat();
        let frames = [zstd(first), b"\x50\x2A\x4D\x18\x03\0\0\0abc".to_vec(), zstd(rest)].concat();
        for (packing, packed) in [
            ("gz", gzip(text.as_bytes())),
            ("gz", several),
            ("zst", zstd(text.as_bytes())),
            ("zst", frames),
        ] {
            for most in [1, 7, 99] {
                assert_eq!(
                    read(&format!("{name}.{packing}"), &packed, most).unwrap(),
                    expected,
                    "{name}.{packing}"
                );
            }
            // The bytes say so, whatever the name says.
            assert_eq!(read(name, &packed, 99).unwrap(), expected);
        }
        assert_eq!(
            read(&format!("{name}.gz"), text.as_bytes(), 99).unwrap(),
            expected,
            "plain, though named .gz"
        );
    }
}

#[test]
fn progress_counts_the_bytes_of_the_compressed_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl.gz");
    // Digits that do not repeat, so that there are several reads' worth of them.
    let line = |number: u64| {
        format!(
            "{{\"text\": \"{:x}\"}}\n",
            u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
        )
    };
    std::fs::write(&path, gzip((0..100_000).map(line).collect::<String>().as_bytes())).unwrap();
    let files = files(&[Source::from(path)]).unwrap();
    let reader = Reader::default();
    let mut records = Records::new(&files, &reader, Cursor::default()).unwrap();
    let mut before = 0;
    let mut steps = 0;
    while records.block(9999).unwrap().is_some() {
        assert!((before..=bytes(&files).unwrap()).contains(&records.bytes_before()));
        steps += usize::from(records.bytes_before() > before);
        before = records.bytes_before();
    }
    assert!(steps > 5 && before == bytes(&files).unwrap(), "{steps}");
}

#[test]
fn compressed_files_that_are_cut_or_endless_are_named() {
    let packed = gzip(b"{\"text\": \"a\"}\n");
    for (name, packed) in
        [("x.jsonl.gz", packed.clone()), ("x.jsonl.zst", zstd(b"{\"text\": \"a\"}\n"))]
    {
        let error = error(name, &packed[..packed.len() - 5]);
        assert!(
            error.contains("it cannot be unpacked") && error.contains("fetch it again"),
            "{error}"
        );
    }
    let twice = error("x.jsonl.gz", &gzip(&packed));
    assert!(twice.contains("compressed, it holds what is compressed with gzip"), "{twice}");
    // Nothing but zeros, in a few kilobytes.
    let bomb = vec![b'0'; RECORD_LIMIT as usize + (1 << 20)];
    for name in ["x.jsonl", "x.txt", "x.csv", "x.json"] {
        let start = if name == "x.json" { &b"[\""[..] } else { b"text\n\"" };
        let error = error(&format!("{name}.gz"), &gzip(&[start, &bomb].concat()));
        let limit = if name == "x.csv" { 2 } else { 4 };
        assert!(
            error.contains(&format!("a record has more than {limit} MiB, at"))
                && error.contains(&format!("{name}.gz:")),
            "{error}"
        );
    }
    // At the limit is not beyond it.
    let most = [&bomb[..RECORD_LIMIT as usize], b"\n{}"].concat();
    assert_eq!(read("x.jsonl", &most, 9).unwrap().len(), 2);
}

#[test]
fn files_in_the_place_of_data_are_named_with_the_way_out() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let utf16: Vec<u8> =
        "{\"text\": \"a\"}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [b"\xFF\xFE", &utf16[..]].concat();
    for name in ["x.jsonl", "x.json.gz", "x.csv", "x.txt", "x.parquet", "x.arrow", "x.tsv"] {
        for (content, says, remedy) in [
            (&pointer[..], "it is a pointer of Git LFS, not the file", "git lfs pull"),
            (b"<!DOCTYPE html><html>", "it is a web page (HTML)", "fetch the file itself"),
            (&utf16, "it is UTF-16", "save the file as UTF-8"),
            (&with_mark, "it is UTF-16", "save the file as UTF-8"),
            (b"SQLite format 3\0...", "it is an SQLite database", "CSV"),
        ] {
            let error = error(name, content);
            assert!(
                error.contains(says) && error.contains(remedy) && error.contains(name),
                "{name}: {error}"
            );
        }
    }
    assert!(error("x.jsonl", b"PAR1....PAR1").contains("it is a Parquet file, in"));
    assert!(error("x.jsonl.gz", &gzip(&with_mark)).contains("compressed, it holds what is UTF-16"));
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("x.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(read_file(&pipe, 9).unwrap_err().to_string().contains("it is a pipe"));
}

#[test]
fn layouts_of_json_are_told_by_their_content() {
    assert_eq!(
        seen(&read("x.jsonl", b" [{\"a\": 1},\n{\"b\": [NaN]} ]", 1).unwrap()),
        [(1, "{\"a\": 1}"), (2, "{\"b\": [NaN]}")]
    );
    let blank = [&b"\n".repeat(700_000)[..], b"[1, 2]"].concat();
    assert_eq!(seen(&read("x.json", &blank, 1).unwrap()), [(700_001, "1"), (700_001, "2")]);
    assert_eq!(
        seen(&read("x.jsonl", b"{\"a\": 1}\r{\"b\": 2}\r", 1).unwrap()),
        [(1, "{\"a\": 1}"), (2, "{\"b\": 2}")]
    );
    for (text, says, line) in [
        ("[\n1,\n{\"a\": [}\n]", "a closing bracket has no opening one", 3),
        ("[1\n", "the array does not end", 2),
        ("[1,\n{\"a\": \"b", "the array does not end", 2),
        ("[1 2]", "a comma is missing between two records", 1),
        ("[1]\n{}", "something follows the array", 2),
        ("[1,\n]", "a comma stands before the bracket", 2),
        ("[1,,2]", "nothing between two commas", 1),
        ("{\n  \"text\": \"a\"\n}\n", "a record has several lines", 1),
        ("{\"data\": [{\"text\": \"a\"}]}", "a list in \"data\"", 1),
    ] {
        for most in [1, 9] {
            let error = read("x.jsonl", text.as_bytes(), most).unwrap_err().to_string();
            assert!(
                error.contains(says) && error.contains(&format!("x.jsonl:{line};")),
                "{text}: {error}"
            );
        }
    }
    let deep = format!("[1, {}]", "[".repeat(100_000));
    assert!(error("x.json", deep.as_bytes()).contains("nested more than 127 levels deep"));
}

#[test]
fn tables_of_text_are_read_with_any_separator_and_header() {
    for (name, text) in [
        ("x.csv", "id;Text ;n\n1;\"a;\nb\";2\n2;c, d;3\n"),
        ("x.tsv", "id\tTEXT\tn\r\n1\t\"a;\nb\"\t2\r\n2\tc, d\t3\r\n"),
        ("x.csv", "\u{feff}\"text\", \"other one\" \n\"a;\nb\",\n\"c, d\",\n"),
    ] {
        for most in [1, 9] {
            let found = read(name, text.as_bytes(), most).unwrap();
            assert_eq!(
                seen(&found),
                [(2, "{\"text\":\"a;\\nb\"}"), (4, "{\"text\":\"c, d\"}")],
                "{text:?}"
            );
        }
    }
    assert_eq!(
        seen(&read("x.csv", b"id,text\r1,a\r2,b\r", 1).unwrap()),
        [(2, "{\"text\":\"a\"}"), (3, "{\"text\":\"b\"}")]
    );
    assert_eq!(
        seen(&read("x.csv", b"text\n\na\n\n\nb", 9).unwrap()),
        [(3, "{\"text\":\"a\"}"), (5, "{\"text\":\"b\"}")]
    );
    let open = read("x.csv", b"id,text\n1,\"a\n2,b\n3,c\n", 1).unwrap();
    assert!(open.len() == 1 && open[0].0 == 2 && open[0].1.contains("none closes it"), "{open:?}");
    let ragged = read("x.csv", b"id,text\n1,a,b\n2,c\n", 1).unwrap();
    assert!(
        ragged[0].0 == 2 && ragged[0].1.contains("a row of 3 fields below a header of 2"),
        "{ragged:?}"
    );
    assert!(error("x.csv", b"text,text\na,b\n").contains("names `text` twice, at"));
    assert!(error("x.csv", b"\n").contains("it is empty"));
}

#[test]
fn binary_tables_say_the_same_in_every_codec_and_type() {
    let expected: Vec<(usize, String)> = std::fs::read_to_string(fixture("rows.jsonl"))
        .unwrap()
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, serde_json::from_str::<Value>(line).unwrap().to_string()))
        .collect();
    let parquet = ["none", "snappy", "gzip", "brotli", "lz4", "zstd", "v2"]
        .map(|name| format!("{name}.parquet"));
    let arrow = ["plain", "wide"].into_iter().flat_map(|name| {
        ["None", "lz4", "zstd"].into_iter().flat_map(move |codec| {
            ["file", "stream"].map(|ending| format!("{name}-{codec}-{ending}.arrow"))
        })
    });
    for name in parquet.into_iter().chain(arrow).chain(["version2.feather".into()]) {
        for most in [1, 3, 9] {
            assert_eq!(
                read_file(&fixture(&name), most).unwrap_or_else(|error| panic!("{error}")),
                expected,
                "{name}"
            );
        }
    }
    let bytes = read_file(&fixture("bytes.parquet"), 9).unwrap();
    assert!(bytes[0].1 == "{\"text\":\"ü\"}" && bytes[1].1.contains("not UTF-8"), "{bytes:?}");
}

#[test]
fn columns_that_are_not_read_are_known_by_name() {
    for name in ["zstd.parquet", "plain-lz4-stream.arrow", "wide-None-file.arrow"] {
        let files = files(&[Source::from(fixture(name))]).unwrap();
        let rows = open(
            &files[0],
            &Reader::default(),
            &["text", "prompt", "completion"].map(str::to_owned),
            Cursor::default(),
        )
        .unwrap();
        assert_eq!(rows.unread_columns(), ["other", "messages"], "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(&path, "a,text,b\n").unwrap();
    assert_eq!(
        CsvRows::open(&path, &["prompt", "completion", "text"]).unwrap().unread_columns(),
        ["a", "b"]
    );
}

#[test]
fn tables_that_are_not_read_are_called_by_their_kind() {
    for (name, says) in [
        ("lzo.parquet", "compressed with LZO"),
        ("encrypted.parquet", "an encrypted Parquet file"),
        ("encrypted-columns.parquet", "encrypted"),
        ("index.parquet", "the index of other files (part-0.parquet, ...)"),
        ("version1.feather", "a Feather file of version 1"),
    ] {
        let error = read_file(&fixture(name), 9).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(name), "{error}");
    }
    for name in ["zstd.parquet", "plain-None-file.arrow", "plain-None-stream.arrow"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let error = error(name, &whole[..whole.len() * 2 / 3]);
        assert!(error.contains("it is no whole"), "{name}: {error}");
    }
    // Without its beginning the footer names what is not there.
    let whole = std::fs::read(fixture("none.parquet")).unwrap();
    let start = whole.len()
        - 8
        - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let footer = [b"PAR1", &whole[start..]].concat();
    assert!(
        error("x.parquet", &footer).contains("its footer names rows that are not there"),
        "{}",
        error("x.parquet", &footer)
    );
}

/// Found by damage at random: the mark of the end stands after the first of two batches. Whoever
/// resumed behind the first read on behind the mark, and came to the second again and again.
#[test]
fn the_mark_of_the_end_holds_for_whoever_resumes() {
    let records = read_file(&fixture("early-end.arrow"), usize::MAX).unwrap();
    let lines: Vec<usize> = records.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic_and_in_any_blocks_alike(
        name in prop::sample::select(vec!["x.jsonl", "x.json", "x.txt", "x.csv", "x.tsv", "x.parquet", "x.arrow", "x.jsonl.gz"]),
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
            let _ = Reader::default().read_json(&content, format);
        }
    }
}
