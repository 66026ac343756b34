//! The options that give the client other ids and names than SOURCE has. Syntax is virtiofsd's.

use thrufs_fs::{IdMap, IdMaps, IdRule, PosixAcl, XattrMap};

use super::files::FileOptions;

/// Ids and names that differ between the client and SOURCE.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Other ids and names on SOURCE")]
pub(crate) struct MappingOptions {
    /// Translate user ids between the client (the guest) and SOURCE (the host); may be repeated:
    /// map:GUEST:HOST:COUNT both ways, guest:GUEST:HOST:COUNT, host:HOST:GUEST:COUNT,
    /// squash-guest:GUEST:HOST:COUNT and squash-host:HOST:GUEST:COUNT many to one,
    /// forbid-guest:GUEST:COUNT fails with EPERM; an id without a rule stays as it is
    #[arg(long, value_name = "RULE", action = clap::ArgAction::Append)]
    pub(crate) translate_uid: Vec<IdRule>,
    /// The same for group ids
    #[arg(long, value_name = "RULE", action = clap::ArgAction::Append)]
    pub(crate) translate_gid: Vec<IdRule>,
    /// Give extended attributes other names on SOURCE (implies --xattr): rules
    /// :TYPE:SCOPE:KEY:PREPEND: of which the first that matches holds, TYPE one of prefix ok bad
    /// unsupported, SCOPE one of client server all, any character for `:`; or :map:KEY:PREPEND:
    #[arg(long, value_name = "RULES")]
    pub(crate) xattrmap: Option<XattrMap>,
}

impl MappingOptions {
    /// The maps of users and groups.
    pub(crate) fn ids(&self) -> Result<IdMaps, String> {
        let map = |option: &str, rules: &[IdRule]| {
            IdMap::new(rules).map_err(|error| format!("{option}: {error}"))
        };
        Ok(IdMaps {
            uid: map("--translate-uid", &self.translate_uid)?,
            gid: map("--translate-gid", &self.translate_gid)?,
        })
    }

    /// What these cannot be combined with.
    pub(crate) fn check(&self, files: &FileOptions) -> Result<(), String> {
        if files.posix_acl == PosixAcl::Never {
            return Ok(());
        }
        if !(self.translate_uid.is_empty() && self.translate_gid.is_empty()) {
            return Err(
                "--translate-uid and --translate-gid exclude --posix-acl, since the ids in an ACL \
                 are not translated: leave one out"
                    .to_owned(),
            );
        }
        let names = ["system.posix_acl_access", "system.posix_acl_default"];
        match &self.xattrmap {
            Some(map) if !names.iter().all(|name| map.leaves_alone(name.as_bytes())) => {
                Err("--posix-acl needs ACLs under their own names: put \
                 :ok:all:system.posix_acl_:system.posix_acl_: in front of the rules of --xattrmap"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}
