//! Every option of a mount, once.
//!
//! Invariant: this struct is the only list. `--help`, the long options, the keys of `-o`
//! ([`crate::options::option_list`] turns `-o key=value` into `--key=value`) and their near matches are all
//! derived from it; only what mount(8) calls flags (`ro`, `nodev`, ...) has a table beside it.
//! Names and value sets are virtiofsd's wherever it has the option.

pub(crate) mod device;
pub(crate) mod files;
pub(crate) mod kernel;
pub(crate) mod mapping;
pub(crate) mod old_virtiofsd;
pub(crate) mod option_list;
pub(crate) mod process;
pub(crate) mod sandbox;
mod values;
pub(crate) mod virtiofsd;

use std::path::PathBuf;

use files::FileOptions;
use kernel::KernelOptions;
use mapping::MappingOptions;
use process::ProcessOptions;
use sandbox::SandboxOptions;

/// What `thrufs mount` takes.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    version,
    about = "Make SOURCE appear at MOUNTPOINT",
    args_override_self = true,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Each long option is also a key of -o, with - or _ between the words: \
    -o cache=never,attr_timeout=0.5. A long option on the command line wins over -o."
)]
pub(crate) struct MountArgs {
    /// Directory to serve
    pub(crate) source: PathBuf,
    /// Directory where it shall appear
    pub(crate) mountpoint: PathBuf,
    #[arg(short = 'o', value_name = "OPTION,...", action = clap::ArgAction::Append)]
    #[arg(
        help = "Mount options, comma-separated: ro rw [no]dev [no]suid [no]exec [no]atime sync \
        dirsync, and every long option; `\\,` is a comma inside a value"
    )]
    pub(crate) mount_options: Vec<String>,

    #[command(flatten)]
    pub(crate) files: FileOptions,
    #[command(flatten)]
    pub(crate) mapping: MappingOptions,
    #[command(flatten)]
    pub(crate) sandbox: SandboxOptions,
    #[command(flatten)]
    pub(crate) mount: KernelOptions,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
    #[command(flatten)]
    pub(crate) helper: HelperFlags,
}

/// What mount(8) passes to a mount helper; hidden, since only mount(8) uses it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HelperFlags {
    #[arg(short = 'n', hide = true)]
    pub(crate) no_mtab: bool,
    #[arg(short = 's', hide = true)]
    pub(crate) sloppy: bool,
    #[arg(short = 'v', hide = true)]
    pub(crate) verbose: bool,
    #[arg(short = 'r', hide = true)]
    pub(crate) read_only: bool,
    #[arg(short = 'w', hide = true)]
    pub(crate) read_write: bool,
    #[arg(short = 't', hide = true, value_name = "TYPE")]
    pub(crate) fs_type: Option<String>,
}
