//! What a machine is made of: memory, processors, files, devices and its first process.
//!
//! Data only, and not the ways to boot it, since User Mode Linux and QEMU both read it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The guest's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// Every file of the host's, read-only; User Mode Linux only.
    Host,
    /// At least these files of the host's, at the same paths, with the shared libraries they need.
    Files(Vec<PathBuf>),
}

/// A device whose other side is a process of the host's, listening on a socket (vhost-user).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The process's socket.
    pub socket: PathBuf,
    /// The device's number in virtio.
    pub id: u32,
    /// The device in QEMU's words, with its properties: `vhost-user-fs-pci,tag=x`.
    pub qemu: String,
}

/// A machine that can boot a kernel.
pub struct Machine {
    /// Memory in MiB.
    pub memory: u32,
    /// Processors; give one to a kernel without SMP.
    pub cpus: u32,
    /// Whether the clock counts instructions, one a nanosecond, and skips idle time. Only QEMU's
    /// translator can do that.
    pub counted: bool,
    /// What the guest sees.
    pub root: Root,
    /// What it has beside memory and processors.
    pub devices: Vec<Device>,
    /// What has to be loaded first, where the kernel has it as a module.
    pub modules: Vec<String>,
    /// The first process: a path on the host, and its arguments.
    pub init: Vec<String>,
    /// Further words for the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// When this is set the machine is stopped, as at the deadline.
    pub stop: Arc<AtomicBool>,
}

/// One processor, a GiB of memory, the host's files, and nothing else.
impl Default for Machine {
    fn default() -> Self {
        Self {
            memory: 1024,
            cpus: 1,
            counted: false,
            root: Root::Host,
            devices: Vec::new(),
            modules: Vec::new(),
            init: Vec::new(),
            kernel_arguments: Vec::new(),
            stop: Arc::default(),
        }
    }
}
