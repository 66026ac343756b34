//! Text from a file name, a client or the server, made fit for a line of a log or a terminal.
//!
//! Invariant: what comes out is one line without control characters, so that it can neither command the
//! terminal that shows it nor pass for another line; and it is bounded.

use std::fmt::Write;

/// What stands in the place of the rest of a line.
pub(super) const CUT: &str = " [cut]";

/// `text` with control characters (tabs excepted), bytes that are no UTF-8, and characters that reorder
/// what a terminal shows as escapes; after at most `limit` bytes of it the rest is cut off and marked.
pub(crate) fn escaped(text: &[u8], limit: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(limit) + CUT.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let before = clean.len();
            push(&mut clean, c);
            if clean.len() > limit {
                clean.truncate(before);
                return clean + CUT;
            }
        }
        for byte in chunk.invalid() {
            if clean.len() + r"\xff".len() > limit {
                return clean + CUT;
            }
            // Writing to a String cannot fail.
            let _ = write!(clean, "\\x{byte:02x}");
        }
    }
    clean
}

fn push(clean: &mut String, c: char) {
    let reorders = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Writing to a String cannot fail.
    let _ = match c {
        '\t' => write!(clean, "\t"),
        '\n' => write!(clean, "\\n"),
        '\r' => write!(clean, "\\r"),
        c if c.is_ascii_control() => write!(clean, "\\x{:02x}", u32::from(c)),
        c if c.is_control() || reorders => write!(clean, "\\u{{{:x}}}", u32::from(c)),
        c => write!(clean, "{c}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_of_control_characters_leaves_none() {
        for (text, wanted) in [
            (&b"plain \xc3\xa9\ttext"[..], "plain \u{e9}\ttext"),
            (b"\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
            (b"a\r\nERROR b", r"a\r\nERROR b"),
            // CSI as one character, for terminals that take C1.
            (b"\xc2\x9b2J\x7f", r"\u{9b}2J\x7f"),
            (b"a\xff\xfeb\xe2\x82", r"a\xff\xfeb\xe2\x82"),
            ("a\u{202e}b".as_bytes(), r"a\u{202e}b"),
        ] {
            assert_eq!(escaped(text, 100), wanted);
        }
    }

    #[test]
    fn escaped_of_a_long_text_is_cut_and_says_so() {
        assert_eq!(escaped(b"12345678", 8), "12345678");
        assert_eq!(escaped(b"123456789", 8), "12345678 [cut]");
        // An escape is whole or left out, and counts as long as it is.
        assert_eq!(escaped(b"12345\x1b", 8), "12345 [cut]");
        assert_eq!(escaped(b"12345\xff", 8), "12345 [cut]");
        assert_eq!(escaped("1234567\u{e9}".as_bytes(), 8), "1234567 [cut]");
    }
}
