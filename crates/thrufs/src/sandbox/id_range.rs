//! Ids of a user namespace that stand for ids outside, as `--uid-map` and `--gid-map` say.

use std::fmt;
use std::str::FromStr;

/// `count` ids: from `inside` on in the user namespace, from `outside` on around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub(super) inside: u32,
    outside: u32,
    count: u32,
}

impl FromStr for IdRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "expected :INSIDE:OUTSIDE:COUNT:, such as :0:100000:65536:".to_owned();
        let separator = text.chars().next().ok_or_else(wanted)?;
        if separator.is_ascii_alphanumeric() {
            return Err(wanted());
        }
        let fields: Vec<&str> = text.split(separator).collect();
        let ["", inside, outside, count, ""] = fields[..] else {
            return Err(wanted());
        };
        let range = Self {
            inside: number(inside)?,
            outside: number(outside)?,
            count: number(count)?,
        };
        let ends = [range.inside, range.outside].map(|first| first.checked_add(range.count));
        if range.count == 0 || ends.contains(&None) {
            return Err("COUNT must be at least 1 and not lead beyond the last id".to_owned());
        }
        Ok(range)
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ":{}:{}:{}:", self.inside, self.outside, self.count)
    }
}

impl IdRange {
    /// One id, which is the same on both sides.
    pub(super) fn only(id: u32) -> Self {
        Self {
            inside: id,
            outside: id,
            count: 1,
        }
    }

    /// Whether `id` outside is all that there is.
    pub(super) fn is_only(self, id: u32) -> bool {
        self.outside == id && self.count == 1
    }

    /// As the kernel and newuidmap(1) take it.
    pub(super) fn fields(self) -> [String; 3] {
        [self.inside, self.outside, self.count].map(|number| number.to_string())
    }
}

/// A number in a list of numbers, or what is wrong with it.
fn number(field: &str) -> Result<u32, String> {
    u32::from_str(field).map_err(|_| format!("'{field}' is not a number from 0 to 4294967295"))
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_of_a_map_of_ids_by_its_own_separator() {
        let range = IdRange {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        };
        assert_eq!(":0:100000:65536:".parse(), Ok(range));
        assert_eq!("/0/100000/65536/".parse(), Ok(range));
        assert_eq!(range.to_string(), ":0:100000:65536:");
    }

    #[test]
    fn parse_of_a_wrong_map_of_ids_says_what_is_wrong() {
        for (text, wanted) in [
            ("", "expected :INSIDE:OUTSIDE:COUNT:"),
            ("0:1:2", "expected :INSIDE:OUTSIDE:COUNT:"),
            (":0:1:2", "expected :INSIDE:OUTSIDE:COUNT:"),
            (":0:x:2:", "'x' is not a number"),
            (":0:1:0:", "COUNT must be at least 1"),
            (":0:4294967295:2:", "not lead beyond the last id"),
        ] {
            let error = text.parse::<IdRange>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
