//! Text and strings in minijinja's syntax.

use super::Writer;

/// Text of a captured body that is longer is printed as a value, so that it counts as memory each
/// time.
const UNCOUNTED_TEXT: usize = 16;

impl Writer {
    /// Text outside tags.
    pub(super) fn raw_text(&mut self, text: &str, line: u32) {
        let bytes = text.as_bytes();
        let opens_tag = bytes.iter().enumerate().any(|(at, byte)| {
            *byte == b'{' && matches!(bytes.get(at + 1), None | Some(b'{' | b'%' | b'#'))
        });
        let counted = self.captures > 0 && text.len() > UNCOUNTED_TEXT;
        if opens_tag || counted {
            self.push("{{ ");
            self.sync(line);
            self.string(text);
            self.push(" }}");
        } else {
            self.push(text);
            self.line += u32::try_from(bytes.iter().filter(|&&byte| byte == b'\n').count())
                .unwrap_or(u32::MAX);
        }
    }

    /// A string literal, on one line.
    pub(super) fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.push("\\\""),
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                _ => self.text.push(character),
            }
        }
        self.text.push('"');
    }
}
