use crate::Refusal;

/// The bytes that [`content`] needs to see: tar has its mark at byte 257.
pub const HEAD: usize = 4096;

/// What the first bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Compressed with gzip.
    Gzip,
    /// Compressed with Zstandard.
    Zstd,
    /// A Parquet file.
    Parquet,
    /// A Parquet file whose footer is encrypted.
    EncryptedParquet,
    /// An Arrow IPC file (Feather version 2).
    ArrowFile,
    /// An Arrow IPC stream.
    ArrowStream,
    /// A safetensors file.
    Safetensors,
    /// A GGUF file.
    Gguf,
    /// Text in UTF-16 or UTF-32.
    WideText(Refusal),
    /// A file that nothing here reads.
    Wrong(Refusal),
    /// None of these: text, perhaps.
    Unknown,
}

impl Content {
    /// Why it is not worth reading, if nothing here reads such a file.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Wrong(refusal) | Self::WideText(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What it is, if its bytes say so: for a message to whom wanted something else.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Gzip => "compressed with gzip",
            Self::Zstd => "compressed with zstd",
            Self::Parquet => "a Parquet file",
            Self::EncryptedParquet => "an encrypted Parquet file",
            Self::ArrowFile => "an Arrow file",
            Self::ArrowStream => "an Arrow stream",
            Self::Safetensors => "a safetensors file",
            Self::Gguf => "a GGUF file",
            Self::WideText(refusal) | Self::Wrong(refusal) => refusal.what,
            Self::Unknown => return None,
        })
    }
}

const UNPACK: &str = "unpack it, or compress it with gzip or zstd instead";
const PICKLE: &str = "pickles can run programs and are not read: save tensors as safetensors, data as JSON lines or Parquet";

/// Marks at the beginning of files that nothing here reads.
const WRONG: [(&[u8], &str, &str); 20] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS, not the file",
        "run `git lfs pull` in the repository it comes from",
    ),
    (
        b"Entry not found",
        "an error message of the hub, not the file",
        "check the name of the file, and fetch it again",
    ),
    (
        b"Repository not found",
        "an error message of the hub, not the file",
        "check the name of the repository, and fetch it again",
    ),
    (
        b"Invalid username or password",
        "an error message of the hub, not the file",
        "log in, and fetch it again",
    ),
    (b"BZh", "compressed with bzip2", UNPACK),
    (b"\xFD7zXZ\0", "compressed with xz", UNPACK),
    (b"\x04\x22\x4D\x18", "compressed with lz4", UNPACK),
    (b"\xFF\x06\0\0sNaPpY", "compressed with snappy", UNPACK),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive", "unpack it"),
    (b"Rar!\x1A\x07", "a RAR archive", "unpack it"),
    (
        b"SQLite format 3\0",
        "an SQLite database",
        "export its table as CSV: sqlite3 -header -csv FILE 'select * from TABLE'",
    ),
    (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "a document of Office", "save its table as CSV (UTF-8)"),
    (b"%PDF-", "a PDF document", "extract its text"),
    (
        b"\x93NUMPY",
        "an array of NumPy",
        "save tensors as safetensors, data as JSON lines or Parquet",
    ),
    (
        b"\x89HDF\r\n\x1A\n",
        "an HDF5 file",
        "save tensors as safetensors, data as JSON lines or Parquet",
    ),
    (b"Obj\x01", "an Avro file", "write the data as JSON lines or Parquet"),
    (
        b"FEA1",
        "a Feather file of version 1",
        "write it again as version 2: pyarrow.feather.write_feather(table, path)",
    ),
    (b"{\\rtf", "a document in rich text", "save it as plain text"),
    (b"<?xml", "an XML document", "fetch the file itself, or write the data as JSON lines"),
    (b"PK\x05\x06", "an empty ZIP archive", "fetch it again"),
];

/// Says what the first bytes of a file are; `head` should have [`HEAD`] of them, or all there are.
pub fn content(head: &[u8]) -> Content {
    // Its first bytes are a length, and may look like anything.
    if head.len() > 8 && head[4..8] == [0; 4] && head[8] == b'{' {
        return Content::Safetensors;
    }
    let begins = |mark: &[u8]| head.starts_with(mark);
    let skippable = head.len() >= 4 && head[0] & 0xF0 == 0x50 && head[1..4] == [0x2A, 0x4D, 0x18];
    if begins(b"\x1F\x8B") {
        Content::Gzip
    } else if begins(b"\x28\xB5\x2F\xFD") || skippable {
        Content::Zstd
    } else if begins(b"PAR1") {
        Content::Parquet
    } else if begins(b"PARE") {
        Content::EncryptedParquet
    } else if begins(b"ARROW1") {
        Content::ArrowFile
    } else if begins(b"\xFF\xFF\xFF\xFF") {
        Content::ArrowStream
    } else if begins(b"GGUF") && head.get(5..7) == Some(&[0, 0]) {
        // Its version follows, in either order of bytes; a text may begin with the word.
        Content::Gguf
    } else if let Some(refusal) = wrong(head) {
        Content::Wrong(refusal)
    } else if let Some(what) = wide(head) {
        Content::WideText(Refusal { what, remedy: "save the file as UTF-8" })
    } else {
        Content::Unknown
    }
}

fn wrong(head: &[u8]) -> Option<Refusal> {
    if let Some(&(_, what, remedy)) = WRONG.iter().find(|(mark, ..)| head.starts_with(mark)) {
        // Three letters may begin a text.
        return (what != "compressed with bzip2" || head.get(4..10) == Some(b"1AY&SY"))
            .then_some(Refusal { what, remedy });
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(Refusal { what: "a tar archive", remedy: "unpack it: tar -xf FILE" });
    }
    if let Some(header) = head.strip_prefix(b"PK\x03\x04") {
        return Some(archive(header.get(26..).unwrap_or_default()));
    }
    // The first operations of pickles: a protocol, then a frame, a container or a global.
    if head.len() > 2
        && head[0] == 0x80
        && (2..=5).contains(&head[1])
        && b"\x95}](cX\x8C\x8A".contains(&head[2])
    {
        return Some(Refusal { what: "a pickle of Python", remedy: PICKLE });
    }
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    let page = |tag: &str| {
        text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    };
    let remedy = "fetch the file itself: the server may have answered with an error or a login";
    ["<!doctype html", "<html", "<head>"]
        .into_iter()
        .any(page)
        .then_some(Refusal { what: "a web page (HTML)", remedy })
}

/// What a ZIP archive is, by the name of its first entry.
fn archive(name: &[u8]) -> Refusal {
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    if name.starts_with(b"[Content_Types].xml")
        || name.starts_with(b"xl/")
        || name.starts_with(b"_rels/")
    {
        Refusal {
            what: "a workbook or document of Office",
            remedy: "save its table as CSV (UTF-8)",
        }
    } else if has(b"/data.pkl") {
        Refusal { what: "a pickle of PyTorch", remedy: PICKLE }
    } else if has(b".npy") {
        Refusal {
            what: "an archive of NumPy",
            remedy: "save tensors as safetensors, data as JSON lines or Parquet",
        }
    } else {
        Refusal { what: "a ZIP archive", remedy: "unpack it" }
    }
}

/// UTF-32 or UTF-16, by a byte order mark, or by the zero bytes that it puts between Latin letters.
fn wide(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(&[0xFF, 0xFE, 0, 0]) || head.starts_with(&[0, 0, 0xFE, 0xFF]) {
        return Some("UTF-32");
    }
    if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
        return Some("UTF-16");
    }
    let pairs = head.as_chunks::<2>().0;
    let zeros = |at: usize| pairs.iter().filter(|pair| pair[at] == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let (few, many) = (even.min(odd), even.max(odd));
    // `{\0"\0` is the least that a record begins with.
    let first = pairs.first().is_some_and(|pair| pair[usize::from(odd > even)] == 0);
    (first && pairs.len() >= 2 && many * 4 >= pairs.len() && few * 16 <= many).then_some("UTF-16")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(head: &[u8]) -> &'static str {
        content(head).refusal().unwrap_or_else(|| panic!("{:?}", content(head))).what
    }

    #[test]
    fn files_that_stand_in_the_place_of_others_are_named() {
        assert!(
            what(b"version https://git-lfs.github.com/spec/v1\noid sha256:").contains("Git LFS")
        );
        for page in ["<!DOCTYPE html><html>", "\n  <HTML lang=en>", "\u{feff}<!doctype HTML>"] {
            assert_eq!(what(page.as_bytes()), "a web page (HTML)", "{page}");
        }
        assert_eq!(what(b"BZh91AY&SY.."), "compressed with bzip2");
        assert_eq!(
            what(b"PK\x03\x04\x14\0\0\0\x08\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x13\0\0\0[Content_Types].xml"),
            "a workbook or document of Office"
        );
        assert_eq!(what(b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl"), "a pickle of PyTorch");
        assert_eq!(
            what(b"PK\x03\x04\x14\0\0\0\x08\0\0\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0a.txt"),
            "a ZIP archive"
        );
        assert_eq!(what(b"\x80\x04\x95\x10\0\0\0\0\0\0\0]"), "a pickle of Python");
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        assert_eq!(what(&tar), "a tar archive");
    }

    #[test]
    fn wide_text_is_told_with_and_without_its_mark() {
        let wide = |text: &str, bytes: fn(u16) -> [u8; 2]| {
            text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        for text in [
            "\u{feff}{\"text\": \"日本\"}",
            "{\"text\": \"a\"}\n",
            "[{\"text\": \"日本語のテキスト\"}]",
            "{}",
        ] {
            assert_eq!(what(&wide(text, u16::to_le_bytes)), "UTF-16", "{text}");
            assert_eq!(what(&wide(text, u16::to_be_bytes)), "UTF-16", "{text}");
        }
        assert_eq!(what(&[0xFF, 0xFE, 0, 0, b'{', 0, 0, 0]), "UTF-32");
    }

    #[test]
    fn what_is_read_is_not_refused() {
        for text in [
            "",
            "a",
            "BZh is the mark of bzip2",
            "<p>html?</p>",
            "version 2",
            "PARIS",
            "{\"text\": \"<html>\"}",
            "日本語",
            "7 z",
            "Ob\0ject",
        ] {
            assert_eq!(content(text.as_bytes()), Content::Unknown, "{text}");
        }
        // Lengths of headers that are the marks of gzip, pickle and bzip2.
        for length in [0x8B1F_u64, 0x7D0280, 0x685A42] {
            assert_eq!(
                content(&[&length.to_le_bytes()[..], b"{\"a\":"].concat()),
                Content::Safetensors
            );
        }
        assert_eq!(content(b"ARROW1\0\0\xFF\xFF\xFF\xFF"), Content::ArrowFile);
        assert_eq!(content(b"\x52\x2A\x4D\x18\0"), Content::Zstd);
    }
}
