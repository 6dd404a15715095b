//! Where a JSON value ends, found by its brackets and quotes without building it.

/// The state between two pieces of a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// The open brackets, the last one lowest: 1 for `{`, 0 for `[`.
    brackets: u128,
    depth: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Nothing was read yet, or something between brackets.
    #[default]
    Structure,
    String,
    /// After a backslash in a string.
    Escape,
    /// A number or a word outside all brackets.
    Bare,
}

/// What a piece of a value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The value is not complete.
    More,
    /// It ends before this byte of the piece.
    End(usize),
    /// It cannot end at all, from this byte of the piece on.
    Broken(usize, &'static str),
}

/// As deep as serde_json reads.
const DEPTH: u32 = 127;

impl Scan {
    /// Reads a piece of the value, which begins at the first byte of the first piece.
    pub(crate) fn step(&mut self, piece: &[u8]) -> Step {
        for (at, &byte) in piece.iter().enumerate() {
            match (self.kind, byte) {
                (Kind::String, b'\\') => self.kind = Kind::Escape,
                (Kind::Escape, _) => self.kind = Kind::String,
                (Kind::String, b'"') => {
                    self.kind = Kind::Structure;
                    if self.depth == 0 {
                        return Step::End(at + 1);
                    }
                }
                (Kind::String, _) => {}
                (Kind::Bare, b',' | b']' | b'}' | b'[' | b'{' | b'"' | b':') => {
                    return Step::End(at);
                }
                (Kind::Bare, _) if byte.is_ascii_whitespace() => return Step::End(at),
                (Kind::Bare, _) => {}
                (Kind::Structure, b'"') => self.kind = Kind::String,
                (Kind::Structure, b'{' | b'[') => {
                    if self.depth == DEPTH {
                        return Step::Broken(at, "it is nested more than 127 levels deep");
                    }
                    self.brackets = self.brackets << 1 | u128::from(byte == b'{');
                    self.depth += 1;
                }
                (Kind::Structure, b'}' | b']') => {
                    if self.depth == 0 || (self.brackets & 1 == 1) != (byte == b'}') {
                        return Step::Broken(at, "a closing bracket has no opening one");
                    }
                    self.brackets >>= 1;
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Step::End(at + 1);
                    }
                }
                (Kind::Structure, _) if self.depth == 0 => self.kind = Kind::Bare,
                (Kind::Structure, _) => {}
            }
        }
        Step::More
    }

    /// Whether what was read would be whole if the text ended here.
    pub(crate) fn may_end(&self) -> bool {
        self.kind == Kind::Bare
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(text: &str) -> Step {
        Scan::default().step(text.as_bytes())
    }

    #[test]
    fn a_value_ends_at_its_own_bracket_quote_or_blank() {
        for (text, bytes) in [
            ("{\"a\": [1, \"}\\\"\"]}, 2", 17),
            ("\"a\\\\\"b", 5),
            ("12,", 2),
            ("true ", 4),
            ("[]]", 2),
            ("NaN]", 3),
        ] {
            assert_eq!(end(text), Step::End(bytes), "{text}");
        }
        assert_eq!(end("[1, {\"a\": ["), Step::More);
        assert!(matches!(end("{\"a\": [1}"), Step::Broken(8, _)));
        assert!(matches!(end(&"[".repeat(1000)), Step::Broken(127, _)));
        assert_eq!(end(&format!("{}{}", "[".repeat(127), "]".repeat(127))), Step::End(254));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i32>().prop_map(Into::into),
            any::<String>().prop_map(Into::into)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|fields| fields
                    .into_iter()
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_in_any_pieces_ends_where_it_ends(value in json(), pretty in any::<bool>(), size in 1_usize..9) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let (mut scan, mut before) = (Scan::default(), 0);
            let followed = format!("{text},1");
            for piece in followed.as_bytes().chunks(size) {
                match scan.step(piece) {
                    Step::More => before += piece.len(),
                    Step::End(at) => {
                        prop_assert_eq!(before + at, text.len());
                        return Ok(());
                    }
                    Step::Broken(..) => prop_assert!(false, "{}", text),
                }
            }
            prop_assert!(false, "no end: {}", text);
        }
    }
}
