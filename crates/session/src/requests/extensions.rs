//! What the extensions of a request that creates say: groups of the caller, and labels of the new file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use thrufs_fs::{Errno, Label, NewNode, Result};
use thrufs_wire::InitFlags;
use thrufs_wire::request::Extensions;

use super::server::Server;
use crate::dispatch::Requester;

/// See the module. Empty ones allocate nothing.
#[derive(Debug)]
pub(super) struct Creation<'m> {
    /// On SOURCE; none where INIT did not grant them.
    groups: Option<Vec<u32>>,
    labels: Vec<Label<'m>>,
}

impl Server {
    /// Reads `extensions`.
    ///
    /// # Errors
    /// EPERM for a group that `--translate-gid` forbids.
    pub(super) fn creation<'m>(&self, extensions: &Extensions<'m>) -> Result<Creation<'m>> {
        let gids = &self.fs().config().ids.gid;
        let on_source = |gid| gids.to_host(gid).ok_or(Errno::EPERM);
        let tells = InitFlags::FUSE_CREATE_SUPP_GROUP;
        let tells = self.dialect.granted().contains(tells);
        let groups = tells.then(|| extensions.groups().map(on_source).collect());
        let labels = extensions.security_contexts().map(|label| Label {
            name: OsStr::from_bytes(label.name.to_bytes()),
            value: label.context,
        });
        Ok(Creation {
            groups: groups.transpose()?,
            labels: labels.collect(),
        })
    }

    /// The node to make, its creator, and what `creation` says of both.
    ///
    /// # Errors
    /// EPERM for a caller that is forbidden.
    pub(super) fn new_node<'a>(
        &self,
        by: Requester,
        (parent, name): (u64, &'a OsStr),
        mode: (u32, u32),
        creation: &'a Creation<'_>,
    ) -> Result<NewNode<'a>> {
        Ok(NewNode {
            groups: creation.groups.as_deref(),
            labels: &creation.labels,
            ..self.dispatch.new_node(by, parent, name, mode)?
        })
    }
}
