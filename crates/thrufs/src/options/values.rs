//! Values of options: names out of a table, and sizes.

use clap::builder::{PossibleValuesParser, TypedValueParser};

pub(super) type Choices<T> = &'static [(&'static str, T)];

/// A parser of one of the names in `table`; clap lists them in help and errors.
pub(super) fn choice<T: Copy + Send + Sync + 'static>(
    table: Choices<T>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(table.iter().map(|(name, _)| *name)).try_map(move |given| {
        let found = table.iter().find(|(name, _)| *name == given);
        found
            .map(|(_, value)| *value)
            .ok_or("not one of the possible values")
    })
}

/// A number of bytes, with `K` or `M` for 2^10 and 2^20.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected bytes, such as 65536, 64K or 1M")?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}
