//! `--xattrmap`: names of extended attributes as the client says them, against those on SOURCE.
//! Syntax and meaning are virtiofsd's.
//!
//! Invariant: of the rules the first that matches holds, and for every name, in both directions,
//! one matches: a list without a last rule for all is refused when it is read. So no request can
//! find a name undecided.
//!
//! security.capability under another name would be a capability that no write removes any more
//! (under its own the backing file system sees to that): where a rule renames it, it is refused and
//! hidden instead.

use std::str::FromStr;

const CAPABILITY: &[u8] = b"security.capability";

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `prefix`: the client's name gets `prepend` in front; from a name on SOURCE it is taken away.
    Prefix,
    /// `ok`: the name stays.
    Ok,
    /// `bad`: EPERM for the client, and hidden from it.
    Bad,
    /// `unsupported`: ENOTSUP for the client, and hidden from it.
    Unsupported,
}

/// Whose names a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Client,
    Server,
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    kind: Kind,
    scope: Scope,
    /// Prefix of the client's names that it is for.
    key: String,
    /// Prefix of the names on SOURCE that it is for.
    prepend: String,
}

/// Rules for names of extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrMap {
    rules: Vec<Rule>,
}

/// What becomes of a name that the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// This one on SOURCE.
    Named(Vec<u8>),
    /// EPERM.
    Denied,
    /// ENOTSUP.
    Unsupported,
}

/// Why a list of rules cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct XattrMapError(String);

impl FromStr for XattrMap {
    type Err = XattrMapError;

    fn from_str(text: &str) -> Result<Self, XattrMapError> {
        let mut rules = Vec::new();
        let mut rest = text.trim_start();
        let mut shorthand = false;
        while let Some(separator) = rest.chars().next() {
            if shorthand {
                return Err(XattrMapError(format!(
                    "'{rest}' stands after a map rule, which decides about every name: put it \
                     before that"
                )));
            }
            if separator.is_ascii_alphanumeric() {
                return Err(XattrMapError(format!(
                    "'{rest}' begins with a letter or digit where the separator of a rule is \
                     expected, as in :prefix:all:KEY:PREPEND:"
                )));
            }
            let mut fields = Fields {
                separator,
                rest: &rest[separator.len_utf8()..],
                rule: rest,
            };
            let kind = fields.next("type")?;
            if kind == "map" {
                let (key, prepend) = (fields.next("key")?, fields.next("prepend")?);
                rules.extend(map_rules(key, prepend)?);
                shorthand = true;
            } else {
                rules.push(fields.rule(kind)?);
            }
            rest = fields.rest.trim_start();
        }
        let map = Self { rules };
        map.check_complete()?;
        Ok(map)
    }
}

/// The fields of one rule.
struct Fields<'a> {
    separator: char,
    rest: &'a str,
    /// From here on, for messages.
    rule: &'a str,
}

impl<'a> Fields<'a> {
    fn next(&mut self, name: &str) -> Result<&'a str, XattrMapError> {
        let (field, rest) = self.rest.split_once(self.separator).ok_or_else(|| {
            XattrMapError(format!(
                "'{}': no '{}' after the {name}: a rule is {s}type{s}scope{s}key{s}prepend{s} or \
                 {s}map{s}key{s}prepend{s}",
                self.rule,
                self.separator,
                s = self.separator
            ))
        })?;
        if field.contains('\0') {
            return Err(XattrMapError(format!("the {name} contains a NUL")));
        }
        self.rest = rest;
        Ok(field)
    }

    fn rule(&mut self, kind: &str) -> Result<Rule, XattrMapError> {
        let kind = match kind {
            "prefix" => Kind::Prefix,
            "ok" => Kind::Ok,
            "bad" => Kind::Bad,
            "unsupported" => Kind::Unsupported,
            other => {
                return Err(XattrMapError(format!(
                    "'{other}' is no type of rule: use prefix, ok, bad, unsupported or map"
                )));
            }
        };
        let scope = match self.next("scope")? {
            "client" => Scope::Client,
            "server" => Scope::Server,
            "all" => Scope::All,
            other => {
                return Err(XattrMapError(format!(
                    "'{other}' is no scope: use client, server or all"
                )));
            }
        };
        Ok(Rule {
            kind,
            scope,
            key: self.next("key")?.to_owned(),
            prepend: self.next("prepend")?.to_owned(),
        })
    }
}

/// What the shorthand `map` stands for.
fn map_rules(key: &str, prepend: &str) -> Result<Vec<Rule>, XattrMapError> {
    if prepend.is_empty() {
        return Err(XattrMapError(
            "a map rule needs something to prepend, as in :map::user.thrufs.:".to_owned(),
        ));
    }
    let rule = |kind, scope, key: &str, prepend: &str| Rule {
        kind,
        scope,
        key: key.to_owned(),
        prepend: prepend.to_owned(),
    };
    let prefix = rule(Kind::Prefix, Scope::All, key, prepend);
    Ok(if key.is_empty() {
        vec![prefix, rule(Kind::Bad, Scope::All, "", "")]
    } else {
        vec![
            prefix,
            // What bears that name on SOURCE is none of the client's,
            rule(Kind::Bad, Scope::Server, "", key),
            // and the client must not say by itself what it would be renamed to.
            rule(Kind::Bad, Scope::Client, prepend, ""),
            rule(Kind::Ok, Scope::All, "", ""),
        ]
    })
}

impl XattrMap {
    fn check_complete(&self) -> Result<(), XattrMapError> {
        let missing = |side: &str, scope: &str| {
            Err(XattrMapError(format!(
                "no rule decides about every {side}: end with one for all, such as \
                 :ok:{scope}::: or :bad:{scope}:::"
            )))
        };
        if !self
            .rules
            .iter()
            .any(|rule| rule.of_client() && rule.key.is_empty())
        {
            return missing("name that the client says", "all");
        }
        if !self
            .rules
            .iter()
            .any(|rule| rule.of_server() && rule.prepend.is_empty())
        {
            return missing("name on SOURCE", "all");
        }
        Ok(())
    }

    /// For GETXATTR, SETXATTR and REMOVEXATTR.
    pub fn client(&self, name: &[u8]) -> ClientName {
        let found = self
            .rules
            .iter()
            .find(|rule| rule.of_client() && name.starts_with(rule.key.as_bytes()));
        let Some(rule) = found else {
            // Cannot be: there is one for all.
            return ClientName::Denied;
        };
        match rule.kind {
            Kind::Prefix if name == CAPABILITY && !rule.prepend.is_empty() => {
                ClientName::Unsupported
            }
            Kind::Prefix => ClientName::Named([rule.prepend.as_bytes(), name].concat()),
            Kind::Ok => ClientName::Named(name.to_vec()),
            Kind::Bad => ClientName::Denied,
            Kind::Unsupported => ClientName::Unsupported,
        }
    }

    /// For LISTXATTR: what the client is shown of a name on SOURCE; none if it is hidden.
    pub fn server<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.of_server() && name.starts_with(rule.prepend.as_bytes()))?;
        let shown = match rule.kind {
            Kind::Prefix => &name[rule.prepend.len()..],
            Kind::Ok => name,
            Kind::Bad | Kind::Unsupported => return None,
        };
        let renamed_capability = shown == CAPABILITY && name != CAPABILITY;
        (!shown.is_empty() && !renamed_capability).then_some(shown)
    }

    /// Whether this name is the same on both sides.
    pub fn leaves_alone(&self, name: &[u8]) -> bool {
        self.client(name) == ClientName::Named(name.to_vec())
    }
}

impl Rule {
    fn of_client(&self) -> bool {
        match self.scope {
            Scope::Client | Scope::All => true,
            Scope::Server => false,
        }
    }

    fn of_server(&self) -> bool {
        match self.scope {
            Scope::Server | Scope::All => true,
            Scope::Client => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRUSTED: &str = "/prefix/all/trusted./user.virtiofs./ /bad/server//trusted./\n\
        /bad/client/user.virtiofs.// /ok/all///";

    fn shown(map: &XattrMap, name: &str) -> String {
        match map.client(name.as_bytes()) {
            ClientName::Named(name) => String::from_utf8(name).unwrap(),
            ClientName::Denied => "EPERM".to_owned(),
            ClientName::Unsupported => "ENOTSUP".to_owned(),
        }
    }

    fn listed(map: &XattrMap, name: &str) -> String {
        match map.server(name.as_bytes()) {
            Some(name) => String::from_utf8(name.to_vec()).unwrap(),
            None => "-".to_owned(),
        }
    }

    #[test]
    fn client_and_server_names_by_rules() {
        // Rules; names of the client and what they are on SOURCE; names there and what is listed.
        type Names = &'static [(&'static str, &'static str)];
        let cases: &[(&str, Names, Names)] = &[
            (
                ":prefix:all::user.virtiofs.::bad:all:::",
                &[
                    ("user.a", "user.virtiofs.user.a"),
                    ("security.capability", "ENOTSUP"),
                ],
                &[
                    ("user.virtiofs.user.a", "user.a"),
                    ("user.a", "-"),
                    ("user.virtiofs.", "-"),
                    ("user.virtiofs.security.capability", "-"),
                ],
            ),
            (
                TRUSTED,
                &[
                    ("trusted.a", "user.virtiofs.trusted.a"),
                    ("user.virtiofs.trusted.a", "EPERM"),
                    ("user.a", "user.a"),
                    ("security.capability", "security.capability"),
                ],
                &[
                    ("user.virtiofs.trusted.a", "trusted.a"),
                    ("trusted.a", "-"),
                    ("user.a", "user.a"),
                ],
            ),
            (
                "/bad/all/security./security./ /ok/all///",
                &[("security.selinux", "EPERM"), ("user.a", "user.a")],
                &[("security.selinux", "-"), ("user.a", "user.a")],
            ),
            (
                ":unsupported:all:system.posix_acl:system.posix_acl::ok:all:::",
                &[("system.posix_acl_access", "ENOTSUP"), ("user.a", "user.a")],
                &[("system.posix_acl_default", "-")],
            ),
            (
                ":ok:client:user.:::prefix:client::x.::ok:server:::",
                &[("user.a", "user.a"), ("other", "x.other")],
                &[("x.other", "x.other")],
            ),
        ];
        for (rules, client, server) in cases {
            let map: XattrMap = rules.parse().unwrap();
            for (name, wanted) in *client {
                assert_eq!(shown(&map, name), *wanted, "{rules}: client's {name}");
            }
            for (name, wanted) in *server {
                assert_eq!(listed(&map, name), *wanted, "{rules}: SOURCE's {name}");
            }
        }
    }

    #[test]
    fn parse_of_map_gives_the_rules_that_it_stands_for() {
        let same = |short: &str, long: &str| {
            let (short, long): (XattrMap, XattrMap) =
                (short.parse().unwrap(), long.parse().unwrap());
            assert_eq!(short, long);
        };
        same(
            ":map::user.virtiofs.:",
            ":prefix:all::user.virtiofs.::bad:all:::",
        );
        same("/map/trusted./user.virtiofs./", TRUSTED);
    }

    #[test]
    fn parse_of_wrong_rules_says_what_is_wrong() {
        let cases = [
            ("", "no rule decides about every name that the client says"),
            (":prefix:all:trusted.:user.v.:", "name that the client says"),
            (
                ":ok:client:::",
                "no rule decides about every name on SOURCE",
            ),
            (
                ":ok:all::",
                "no ':' after the prepend: a rule is :type:scope:key:prepend:",
            ),
            (
                ":okay:all:::",
                "'okay' is no type of rule: use prefix, ok, bad",
            ),
            (
                ":ok:both:::",
                "'both' is no scope: use client, server or all",
            ),
            (
                "ok:all:::",
                "begins with a letter or digit where the separator",
            ),
            (":map:trusted.::", "needs something to prepend"),
            (
                ":map::user.v.::ok:all:::",
                "':ok:all:::' stands after a map rule",
            ),
        ];
        for (rules, wanted) in cases {
            let error = rules.parse::<XattrMap>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{rules}: {error}");
        }
    }

    proptest! {
        #[test]
        fn server_of_client_under_map_is_the_name(key in "[a-z.]{0,6}", name in "[a-z.]{1,12}") {
            let map: XattrMap = format!(":map:{key}:user.virtiofs.:").parse().unwrap();
            let ClientName::Named(there) = map.client(name.as_bytes()) else { return Ok(()) };
            // The other way round a name without the key is hidden where SOURCE has such names.
            prop_assert_eq!(map.server(&there), Some(name.as_bytes()));
        }

        #[test]
        fn parse_of_anything_decides_about_every_name(
            rules in "(:(prefix|ok|bad|unsupported|map|x):(client|server|all|u):?(a|b.)?:?c?: ?){0,4}",
            any in ".{0,30}",
            name in "[a-c.]{0,6}",
        ) {
            let _ = any.parse::<XattrMap>();
            if let Ok(map) = rules.parse::<XattrMap>() {
                let known = map.rules.iter().any(|rule| rule.of_client()
                    && name.as_bytes().starts_with(rule.key.as_bytes()));
                prop_assert!(known);
                let _ = map.server(name.as_bytes());
            }
        }
    }
}
