//! Damaged files end with an error, or with records: not with a panic, a hang, or all of the
//! memory.

use proptest::prelude::*;

use super::tests::{fixture, gzip, read_file, zstd};

/// Files that are right.
fn whole() -> Vec<(&'static str, Vec<u8>)> {
    let rows = std::fs::read(fixture("rows.jsonl")).unwrap();
    let tables = [
        "snappy.parquet",
        "gzip.parquet",
        "brotli.parquet",
        "lz4.parquet",
        "zstd.parquet",
        "v2.parquet",
        "plain-lz4-file.arrow",
        "plain-zstd-stream.arrow",
        "wide-None-stream.arrow",
        "wide-None-file.arrow",
        "wide-lz4-stream.arrow",
    ];
    let tables = tables.map(|name| (name, std::fs::read(fixture(name)).unwrap()));
    [("x.jsonl.gz", gzip(&rows)), ("x.jsonl.zst", zstd(&rows))].into_iter().chain(tables).collect()
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(prop::sample::Index),
    Change(Vec<(prop::sample::Index, u8)>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
            .prop_map(Damage::Change),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(600)
    ))]

    #[test]
    fn damaged_files_end_in_an_error_or_in_records(file in prop::sample::select(whole()), damage in damage()) {
        let (name, mut bytes) = file;
        match damage {
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Change(changes) => {
                for (at, value) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
            }
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(from..from, piece);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = read_file(&path, usize::MAX) {
            prop_assert!(error.to_string().contains(name), "{}", error);
        }
    }
}
