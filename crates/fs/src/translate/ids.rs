//! `--translate-uid` and `--translate-gid`: the ids that the client sees, against those on SOURCE.
//!
//! Invariant: ids of the client become ids of SOURCE, and back, at one place, where a request is
//! taken apart and a reply is put together (`fuse`); everything below knows ids of SOURCE only.
//! Rules of one direction never overlap, so their order means nothing. An id without a rule stays
//! as it is. READ and WRITE carry no id, and pay nothing.
//!
//! Why not an idmapped mount of SOURCE: it maps one to one, and neither squashes nor forbids.

use std::fmt;
use std::str::FromStr;

const WANTED: &str = "expected map:GUEST:HOST:COUNT, guest:GUEST:HOST:COUNT, host:HOST:GUEST:COUNT, \
    squash-guest:GUEST:HOST:COUNT, squash-host:HOST:GUEST:COUNT or forbid-guest:GUEST:COUNT";

/// One rule, in virtiofsd's words: the guest is the client of the mount, the host is SOURCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRule {
    /// `map`: both ways.
    Map(Shift),
    /// `guest`: from the client to SOURCE.
    Guest(Shift),
    /// `host`: from SOURCE to the client.
    Host(Shift),
    /// `squash-guest`: `count` ids of the client are all `to` on SOURCE.
    SquashGuest(Shift),
    /// `squash-host`: `count` ids on SOURCE are all `to` for the client.
    SquashHost(Shift),
    /// `forbid-guest`: requests of the client with these ids fail with EPERM.
    ForbidGuest {
        /// First id.
        from: u32,
        /// How many.
        count: u32,
    },
}

/// `count` ids from `from` on, and the first of those that they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// First id.
    pub from: u32,
    /// What it becomes.
    pub to: u32,
    /// How many.
    pub count: u32,
}

/// Why a rule, or several together, cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdMapError(String);

impl FromStr for IdRule {
    type Err = IdMapError;

    /// The separator is the first character that is no letter, digit, `-` or `_`, as in virtiofsd.
    fn from_str(text: &str) -> Result<Self, IdMapError> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let (word, rest) = match text.find(|c| !is_word(c)) {
            Some(at) => text.split_at(at),
            None => return Err(IdMapError(WANTED.to_owned())),
        };
        let mut chars = rest.chars();
        let separator = chars.next().unwrap_or(':');
        let numbers = chars
            .as_str()
            .split(separator)
            .map(|field| {
                field.parse::<u32>().map_err(|_| {
                    IdMapError(format!("'{field}' is not a number from 0 to 4294967295"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let word = word.to_ascii_lowercase();
        let rule = match (word.as_str(), numbers.as_slice()) {
            ("forbid-guest", &[from, count]) => Self::ForbidGuest { from, count },
            ("forbid-guest", _) => return Err(wrong_count(&word, "GUEST:COUNT", numbers.len())),
            (_, &[from, to, count]) => {
                let shift = Shift { from, to, count };
                match word.as_str() {
                    "map" => Self::Map(shift),
                    "guest" => Self::Guest(shift),
                    "host" => Self::Host(shift),
                    "squash-guest" => Self::SquashGuest(shift),
                    "squash-host" => Self::SquashHost(shift),
                    _ => return Err(unknown(&word)),
                }
            }
            ("map" | "guest" | "squash-guest", _) => {
                return Err(wrong_count(&word, "GUEST:HOST:COUNT", numbers.len()));
            }
            ("host" | "squash-host", _) => {
                return Err(wrong_count(&word, "HOST:GUEST:COUNT", numbers.len()));
            }
            _ => return Err(unknown(&word)),
        };
        rule.check().map(|()| rule)
    }
}

fn wrong_count(word: &str, wanted: &str, given: usize) -> IdMapError {
    IdMapError(format!("write {word}:{wanted} ({given} numbers are given)"))
}

fn unknown(word: &str) -> IdMapError {
    IdMapError(format!("'{word}' is no kind of rule: {WANTED}"))
}

impl fmt::Display for IdRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, shift) = match self {
            Self::Map(shift) => ("map", shift),
            Self::Guest(shift) => ("guest", shift),
            Self::Host(shift) => ("host", shift),
            Self::SquashGuest(shift) => ("squash-guest", shift),
            Self::SquashHost(shift) => ("squash-host", shift),
            Self::ForbidGuest { from, count } => return write!(f, "forbid-guest:{from}:{count}"),
        };
        write!(f, "{word}:{}:{}:{}", shift.from, shift.to, shift.count)
    }
}

impl IdRule {
    /// Ranges that are empty, or go beyond the last id.
    fn check(&self) -> Result<(), IdMapError> {
        let ends: [(u32, u32); 2] = match *self {
            // Forbids nothing: programs write it for a range that happens to be empty.
            Self::ForbidGuest { count: 0, .. } => return Ok(()),
            Self::Map(s) | Self::Guest(s) | Self::Host(s) => [(s.from, s.count), (s.to, s.count)],
            Self::SquashGuest(s) | Self::SquashHost(s) => [(s.from, s.count), (s.to, 1)],
            Self::ForbidGuest { from, count } => [(from, count), (from, count)],
        };
        for (first, count) in ends {
            if count == 0 {
                return Err(IdMapError(format!("'{self}' is for no id: COUNT is 0")));
            }
            if first.checked_add(count - 1).is_none() {
                let most = u64::from(u32::MAX) - u64::from(first) + 1;
                return Err(IdMapError(format!(
                    "'{self}' goes beyond the last id: from {first} on COUNT is at most {most}"
                )));
            }
        }
        Ok(())
    }
}

/// What becomes of the ids of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// They stay as many.
    Shifted(u32),
    /// They become one.
    Squashed(u32),
    Forbidden,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    target: Target,
    rule: IdRule,
}

/// Rules for one kind of id, users or groups. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Ascending, without overlaps; so are those of the other direction.
    to_host: Vec<Range>,
    to_guest: Vec<Range>,
}

impl IdMap {
    /// All rules together.
    ///
    /// # Errors
    /// Two of them are for the same id.
    pub fn new(rules: &[IdRule]) -> Result<Self, IdMapError> {
        let mut map = Self::default();
        for rule in rules {
            let range = |from: u32, count: u32, target| Range {
                first: from,
                last: from.saturating_add(count.saturating_sub(1)),
                target,
                rule: *rule,
            };
            match *rule {
                IdRule::Map(s) => {
                    add(
                        &mut map.to_host,
                        range(s.from, s.count, Target::Shifted(s.to)),
                    )?;
                    add(
                        &mut map.to_guest,
                        range(s.to, s.count, Target::Shifted(s.from)),
                    )?;
                }
                IdRule::Guest(s) => add(
                    &mut map.to_host,
                    range(s.from, s.count, Target::Shifted(s.to)),
                )?,
                IdRule::Host(s) => add(
                    &mut map.to_guest,
                    range(s.from, s.count, Target::Shifted(s.to)),
                )?,
                IdRule::SquashGuest(s) => add(
                    &mut map.to_host,
                    range(s.from, s.count, Target::Squashed(s.to)),
                )?,
                IdRule::SquashHost(s) => add(
                    &mut map.to_guest,
                    range(s.from, s.count, Target::Squashed(s.to)),
                )?,
                IdRule::ForbidGuest { count: 0, .. } => {}
                IdRule::ForbidGuest { from, count } => {
                    add(&mut map.to_host, range(from, count, Target::Forbidden))?;
                }
            }
        }
        Ok(map)
    }

    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        self.to_host.is_empty() && self.to_guest.is_empty()
    }

    /// The id on SOURCE of an id of the client; none if it is forbidden.
    pub fn to_host(&self, id: u32) -> Option<u32> {
        apply(&self.to_host, id)
    }

    /// The id that the client is shown.
    pub fn to_guest(&self, id: u32) -> u32 {
        apply(&self.to_guest, id).unwrap_or(id)
    }
}

/// Rules of users and of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Users (`--translate-uid`).
    pub uid: IdMap,
    /// Groups (`--translate-gid`).
    pub gid: IdMap,
}

impl IdMaps {
    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        self.uid.is_empty() && self.gid.is_empty()
    }
}

fn add(ranges: &mut Vec<Range>, new: Range) -> Result<(), IdMapError> {
    let at = ranges.partition_point(|range| range.last < new.first);
    if let Some(next) = ranges.get(at)
        && next.first <= new.last
    {
        return Err(IdMapError(format!(
            "'{}' and '{}' are both for id {}: leave one of them out, or change its COUNT",
            next.rule,
            new.rule,
            next.first.max(new.first)
        )));
    }
    ranges.insert(at, new);
    Ok(())
}

fn apply(ranges: &[Range], id: u32) -> Option<u32> {
    let at = ranges.partition_point(|range| range.last < id);
    match ranges.get(at) {
        Some(range) if range.first <= id => match range.target {
            // Checked when the rule was read: the last one fits.
            Target::Shifted(to) => Some(to.wrapping_add(id - range.first)),
            Target::Squashed(to) => Some(to),
            Target::Forbidden => None,
        },
        _no_rule => Some(id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(rules: &[&str]) -> Result<IdMap, IdMapError> {
        let rules: Result<Vec<IdRule>, _> = rules.iter().map(|text| text.parse()).collect();
        IdMap::new(&rules?)
    }

    #[test]
    fn to_host_and_to_guest_by_each_kind_of_rule() {
        // Rules; id of the client and what it is on SOURCE; id on SOURCE and what the client sees.
        type Case = (
            &'static [&'static str],
            &'static [(u32, Option<u32>)],
            &'static [(u32, u32)],
        );
        let cases: &[Case] = &[
            (&[], &[(0, Some(0)), (7, Some(7))], &[(0, 0)]),
            (
                &["map:1000:5000:2"],
                &[
                    (999, Some(999)),
                    (1000, Some(5000)),
                    (1001, Some(5001)),
                    (1002, Some(1002)),
                ],
                &[(4999, 4999), (5000, 1000), (5001, 1001), (5002, 5002)],
            ),
            (&["guest:0:10:1"], &[(0, Some(10))], &[(10, 10)]),
            (&["host:10:0:1"], &[(0, Some(0))], &[(10, 0)]),
            (
                &["squash-guest:0:107:4294967295"],
                &[
                    (0, Some(107)),
                    (4_294_967_294, Some(107)),
                    (u32::MAX, Some(u32::MAX)),
                ],
                &[(0, 0)],
            ),
            (&["squash-host:0:65534:10"], &[(3, Some(3))], &[(3, 65534)]),
            (
                &["forbid-guest:0:1000", "map:1000:1000:1"],
                &[(0, None), (999, None), (1000, Some(1000))],
                &[(0, 0)],
            ),
            (&["MAP/1/2/1"], &[(1, Some(2))], &[(2, 1)]),
        ];
        for (rules, to_host, to_guest) in cases {
            let map = map(rules).unwrap();
            for (id, wanted) in *to_host {
                assert_eq!(map.to_host(*id), *wanted, "{rules:?}, client's {id}");
            }
            for (id, wanted) in *to_guest {
                assert_eq!(map.to_guest(*id), *wanted, "{rules:?}, SOURCE's {id}");
            }
        }
    }

    #[test]
    fn parse_of_a_wrong_rule_says_what_is_wrong() {
        let cases: &[(&[&str], &str)] = &[
            (&[""], "expected map:GUEST:HOST:COUNT"),
            (&["map"], "expected map:GUEST:HOST:COUNT"),
            (&["mop:1:2:3"], "'mop' is no kind of rule: expected map:"),
            (
                &["map:1:2"],
                "write map:GUEST:HOST:COUNT (2 numbers are given)",
            ),
            (
                &["forbid-guest:1:2:3"],
                "write forbid-guest:GUEST:COUNT (3 numbers are given)",
            ),
            (&["host:1:x:3"], "'x' is not a number from 0 to 4294967295"),
            (
                &["host:1:-1:3"],
                "'-1' is not a number from 0 to 4294967295",
            ),
            (&["map:1:2:0"], "'map:1:2:0' is for no id: COUNT is 0"),
            (
                &["map:1:4294967295:2"],
                "goes beyond the last id: from 4294967295 on COUNT is at most 1",
            ),
            (
                &["forbid-guest:0:1001", "map:1000:1000:1"],
                "'forbid-guest:0:1001' and 'map:1000:1000:1' are both for id 1000: leave one",
            ),
            (
                &["host:5:6:2", "map:1:6:1"],
                "'host:5:6:2' and 'map:1:6:1' are both for id 6",
            ),
        ];
        for (rules, wanted) in cases {
            let error = map(rules).unwrap_err().to_string();
            assert!(error.contains(wanted), "{rules:?}: {error}");
        }
    }

    fn any_rule() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "map",
            "guest",
            "host",
            "squash-guest",
            "squash-host",
            "forbid-guest",
        ]);
        (word, any::<u32>(), any::<u32>(), 1..=u32::MAX).prop_map(|(word, a, b, n)| match word {
            "forbid-guest" => format!("{word}:{a}:{}", n.min(u32::MAX - a).max(1)),
            _ => format!("{word}:{a}:{b}:{}", n.min(u32::MAX - a.max(b)).max(1)),
        })
    }

    proptest! {
        #[test]
        fn parse_of_what_is_displayed_gives_the_rule(text in any_rule()) {
            let rule: IdRule = text.parse().unwrap();
            prop_assert_eq!(rule.to_string(), text);
        }

        #[test]
        fn to_guest_of_to_host_under_map_is_the_id(from: u32, to: u32, n in 1..=u32::MAX, id: u32) {
            let count = n.min(u32::MAX - from.max(to)).max(1);
            let map = IdMap::new(&[IdRule::Map(Shift { from, to, count })]).unwrap();
            if (from..=from + (count - 1)).contains(&id) {
                let host = map.to_host(id).unwrap();
                prop_assert_eq!(map.to_guest(host), id);
            } else {
                prop_assert_eq!(map.to_host(id), Some(id));
            }
        }

        #[test]
        fn parse_of_anything_never_panics(text in ".{0,40}", tail in "[a-z-]{0,12}(:[0-9]{0,11}){0,4}") {
            let _ = text.parse::<IdRule>();
            if let Ok(rule) = tail.parse::<IdRule>() {
                let _ = IdMap::new(&[rule, rule]);
            }
        }
    }

    /// Incus writes `forbid-guest:0:0` for a guest that has all ids from 0 on.
    #[test]
    fn new_with_an_empty_range_to_forbid_forbids_nothing() {
        let rules: Vec<IdRule> = ["forbid-guest:0:0", "map:0:1000:10"]
            .iter()
            .map(|rule| rule.parse().unwrap())
            .collect();
        assert_eq!(IdMap::new(&rules).unwrap().to_host(0), Some(1000));
    }
}
