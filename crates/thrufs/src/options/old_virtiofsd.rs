//! `-o` as the C virtiofsd had it, and as old versions of libvirt still write it: each item becomes a long
//! option, in front of the typed ones, so that those win.

/// What an item becomes.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// `--NAME=VALUE`; the item has a value.
    Value(&'static str),
    /// `--NAME`, or nothing with `no_` in front.
    Flag(&'static str),
    /// Nothing, or `--NAME` with `no_` in front.
    Denied(&'static str),
    /// `--locks=host`, or nothing with `no_` in front.
    Locks,
    /// Nothing: it was without a meaning there, or is how it is.
    Nothing,
}

const ITEMS: &[(&str, Becomes)] = &[
    ("source", Becomes::Value("shared-dir")),
    ("vhost_user_socket", Becomes::Value("socket-path")),
    ("cache", Becomes::Value("cache")),
    ("sandbox", Becomes::Value("sandbox")),
    ("modcaps", Becomes::Value("modcaps")),
    ("log_level", Becomes::Value("log-level")),
    ("xattrmap", Becomes::Value("xattrmap")),
    ("inode_file_handles", Becomes::Value("inode-file-handles")),
    ("xattr", Becomes::Flag("xattr")),
    ("posix_acl", Becomes::Flag("posix-acl")),
    ("writeback", Becomes::Flag("writeback")),
    ("allow_direct_io", Becomes::Flag("allow-direct-io")),
    ("announce_submounts", Becomes::Flag("announce-submounts")),
    ("security_label", Becomes::Flag("security-label")),
    ("readdirplus", Becomes::Denied("no-readdirplus")),
    ("flock", Becomes::Locks),
    ("posix_lock", Becomes::Locks),
    ("killpriv_v2", Becomes::Nothing),
    ("preserve_noatime", Becomes::Nothing),
    ("allow_root", Becomes::Nothing),
    ("auto_unmount", Becomes::Nothing),
    ("norace", Becomes::Nothing),
];

/// The long options for `lists`, each the value of one `-o`.
///
/// # Errors
/// The message names an item that the C virtiofsd did not have, or that is used wrongly.
pub(crate) fn translate(lists: &[String]) -> Result<Vec<String>, String> {
    // The last of an item and its `no_` form wins, as of the long options.
    let mut chosen: Vec<(&str, Option<String>)> = Vec::new();
    for item in lists.iter().flat_map(|list| split(list)) {
        if item.is_empty() {
            continue;
        }
        let (name, becomes) = one(&item)?;
        chosen.retain(|(known, _)| *known != name);
        chosen.push((name, becomes));
    }
    Ok(chosen
        .into_iter()
        .filter_map(|(_, option)| option)
        .collect())
}

fn one(item: &str) -> Result<(&'static str, Option<String>), String> {
    let (name, value) = match item.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (item, None),
    };
    let plain = name.replace('-', "_");
    let find = |name: &str| ITEMS.iter().find(|(known, _)| *known == name);
    let (found, is_denied) = match (find(&plain), plain.strip_prefix("no_").and_then(find)) {
        (Some(found), _) => (found, false),
        (None, Some(found)) => (found, true),
        (None, None) => return Err(format!("-o {item}: virtiofsd has no option '{name}'")),
    };
    let option = match (found.1, value, is_denied) {
        (Becomes::Value(long), Some(value), false) => Some(format!("--{long}={value}")),
        (Becomes::Value(_), _, _) => return Err(format!("-o {item}: write -o {}=VALUE", found.0)),
        (_, Some(_), _) => return Err(format!("-o {item}: '{name}' has no value")),
        (Becomes::Flag(long), None, false) | (Becomes::Denied(long), None, true) => {
            Some(format!("--{long}"))
        }
        (Becomes::Locks, None, false) => Some("--locks=host".to_owned()),
        (Becomes::Flag(_) | Becomes::Locks, None, true)
        | (Becomes::Denied(_), None, false)
        | (Becomes::Nothing, None, _) => None,
    };
    Ok((found.0, option))
}

/// Items are apart by commas; a doubled one is a comma.
fn split(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut rest = list.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            ',' if rest.next_if_eq(&',').is_none() => items.push(String::new()),
            other => {
                if let Some(last) = items.last_mut() {
                    last.push(other);
                }
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(list: &str) -> Result<Vec<String>, String> {
        translate(&[list.to_owned()])
    }

    #[test]
    fn translate_of_what_libvirt_writes_is_long_options() {
        let list = "source=/srv/a,,b,cache=always,sandbox=chroot,xattr,flock,no_posix_lock";
        let long = [
            "--shared-dir=/srv/a,b",
            "--cache=always",
            "--sandbox=chroot",
            "--xattr",
            "--locks=host",
        ];
        assert_eq!(translated(list).unwrap(), long);
    }

    #[test]
    fn translate_lets_the_last_of_a_pair_win() {
        assert_eq!(translated("xattr,no_xattr").unwrap(), [""; 0]);
        assert_eq!(translated("no_xattr,xattr").unwrap(), ["--xattr"]);
        let lists = [
            "no_readdirplus".to_owned(),
            "cache=auto,cache=never".to_owned(),
        ];
        let all = translate(&lists).unwrap();
        assert_eq!(all, ["--no-readdirplus", "--cache=never"]);
    }

    #[test]
    fn translate_of_what_is_no_option_names_it() {
        for (list, wanted) in [
            ("xattr,nonsense", "'nonsense'"),
            ("cache", "cache=VALUE"),
            ("xattr=yes", "no value"),
            ("no_source=/srv", "source=VALUE"),
        ] {
            let error = translated(list).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
