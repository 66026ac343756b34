//! The system calls of a serving process: all that it may make once it is shut in.
//!
//! Invariant: nothing here starts a program, makes a process, reaches another one, opens a socket,
//! mounts, or changes a namespace. `openat` and its like are here, since they are the work: what
//! they can reach is the sandbox's matter. A call that a library starts to make shows as a daemon
//! that ends with SIGSYS (`--seccomp=log` names it in the kernel's log) and gets its line here.

use std::ops::RangeInclusive;

use libc::*;
use thrufs_sys::verity::{FS_IOC_ENABLE_VERITY, FS_IOC_MEASURE_VERITY};

/// Calls that are allowed whatever their arguments, by what needs them.
pub(super) const ALLOWED: &[(&str, &[c_long])] = &[
    (
        "READ and WRITE, and the connection to the kernel (/dev/fuse)",
        &[
            SYS_read,
            SYS_readv,
            SYS_write,
            SYS_writev,
            SYS_pread64,
            SYS_preadv,
            SYS_preadv2,
            SYS_pwrite64,
            SYS_pwritev,
            SYS_pwritev2,
            SYS_lseek,
            SYS_close,
            SYS_fadvise64,
        ],
    ),
    (
        "what a file holds: SETATTR of a size, FALLOCATE, COPY_FILE_RANGE, FSYNC, locks",
        &[
            SYS_ftruncate,
            SYS_fallocate,
            SYS_copy_file_range,
            SYS_fsync,
            SYS_fdatasync,
            SYS_sync_file_range,
            SYS_syncfs,
            SYS_flock,
        ],
    ),
    (
        "LOOKUP, OPEN and READDIR",
        &[
            SYS_openat,
            SYS_openat2,
            SYS_name_to_handle_at,
            SYS_open_by_handle_at,
            SYS_statx,
            SYS_newfstatat,
            SYS_fstat,
            SYS_statfs,
            SYS_fstatfs,
            SYS_getdents64,
            SYS_readlinkat,
            SYS_faccessat,
            SYS_faccessat2,
        ],
    ),
    (
        "names: CREATE, MKNOD, MKDIR, SYMLINK, LINK, RENAME, UNLINK",
        &[
            SYS_mkdirat,
            SYS_mknodat,
            SYS_symlinkat,
            SYS_linkat,
            SYS_renameat2,
            SYS_unlinkat,
        ],
    ),
    (
        "SETATTR",
        &[
            SYS_fchmod,
            SYS_fchmodat,
            SYS_fchmodat2,
            SYS_fchown,
            SYS_fchownat,
            SYS_utimensat,
        ],
    ),
    (
        "extended attributes",
        &[
            SYS_getxattr,
            SYS_setxattr,
            SYS_listxattr,
            SYS_removexattr,
            SYS_fgetxattr,
            SYS_fsetxattr,
            SYS_flistxattr,
            SYS_fremovexattr,
        ],
    ),
    (
        "acting as the caller",
        &[
            SYS_setfsuid,
            SYS_setfsgid,
            SYS_getgroups,
            SYS_setgroups,
            SYS_umask,
            SYS_capget,
            SYS_capset,
            SYS_getuid,
            SYS_geteuid,
            SYS_getgid,
            SYS_getegid,
        ],
    ),
    ("memory", &[SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk]),
    (
        "threads and signals of this process",
        &[
            SYS_clone3,
            SYS_futex,
            SYS_set_robust_list,
            SYS_rseq,
            SYS_sched_yield,
            SYS_sched_getaffinity,
            SYS_getpid,
            SYS_gettid,
            SYS_tgkill,
            SYS_rt_sigaction,
            SYS_rt_sigprocmask,
            SYS_rt_sigreturn,
            SYS_sigaltstack,
            SYS_restart_syscall,
            SYS_exit,
            SYS_exit_group,
        ],
    ),
    (
        "time, and what the C library asks of the machine",
        &[
            SYS_clock_gettime,
            SYS_clock_getres,
            SYS_clock_nanosleep,
            SYS_nanosleep,
            SYS_gettimeofday,
            SYS_getrandom,
            SYS_uname,
            SYS_sysinfo,
            SYS_prlimit64,
        ],
    ),
    (
        "the event loop of the control plane, and the end of the thread that watches",
        &[
            SYS_epoll_create1,
            SYS_epoll_ctl,
            SYS_epoll_pwait,
            SYS_epoll_pwait2,
            SYS_ppoll,
            SYS_eventfd2,
            SYS_pipe2,
        ],
    ),
    (
        "clients of the sockets that were opened before: status, metrics, the supervisor",
        &[
            SYS_accept4,
            SYS_recvfrom,
            SYS_recvmsg,
            SYS_sendto,
            SYS_sendmsg,
            SYS_getsockopt,
            SYS_setsockopt,
            SYS_getsockname,
            SYS_getpeername,
            SYS_shutdown,
        ],
    ),
    (
        "the reply to a front end, moved from a pipe so that it is sent once (--survive of a device)",
        &[SYS_splice],
    ),
];

/// The older forms that x86-64 has of some of these.
#[cfg(target_arch = "x86_64")]
pub(super) const ALLOWED_HERE: &[c_long] =
    &[SYS_open, SYS_poll, SYS_epoll_wait, SYS_time, SYS_renameat];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const ALLOWED_HERE: &[c_long] = &[];

/// Calls that are allowed when the masked argument has this value: number, argument, mask, value.
pub(super) const ALLOWED_BITS: &[(c_long, u8, u64, u64)] = &[
    // A thread, in the namespaces of the process. What clone3(2) is asked for cannot be seen here;
    // it gives ENOSYS, upon which the C library takes clone(2).
    (
        SYS_clone,
        0,
        NEW_NAMESPACE | CLONE_THREAD as u64,
        CLONE_THREAD as u64,
    ),
    // A umask and a current directory for each thread, and nothing else.
    (SYS_unshare, 0, u64::MAX, CLONE_FS as u64),
    // No code that was not there at the start.
    (SYS_mmap, 2, PROT_EXEC as u64, 0),
    (SYS_mprotect, 2, PROT_EXEC as u64, 0),
];

const NEW_NAMESPACE: u64 = (CLONE_NEWNS
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWIPC
    | CLONE_NEWUTS
    | CLONE_NEWCGROUP) as u64;

/// Calls of which the argument must be one of these: number, argument, values.
pub(super) const ALLOWED_VALUES: &[(c_long, u8, &[u32])] = &[
    // Those of chattr(1) and of fs-verity, which are handed on; FIONBIO for sockets; TCGETS, by which the log asks whether it goes to a terminal.
    (
        SYS_ioctl,
        1,
        &[
            0x8008_6601,
            0x4008_6602,
            0x8008_7601,
            0x801c_581f,
            0x401c_5820,
            FS_IOC_ENABLE_VERITY,
            FS_IOC_MEASURE_VERITY,
            0x5421,
            0x5401,
        ],
    ),
    (
        SYS_fcntl,
        1,
        &[
            F_DUPFD_CLOEXEC as u32,
            F_GETFD as u32,
            F_SETFD as u32,
            F_GETFL as u32,
            F_SETFL as u32,
            F_OFD_GETLK as u32,
            F_OFD_SETLK as u32,
        ],
    ),
    // A name for a thread, and for a piece of the heap.
    (SYS_prctl, 0, &[PR_SET_NAME as u32, 0x5356_4d41]),
];

/// What a process that starts servers (`--survive`) may make beyond that: to start one and await it, and what a server
/// makes before it has its own filter.
pub(super) const ZYGOTE: &[c_long] = &[
    SYS_wait4,
    SYS_getppid,
    SYS_close_range,
    SYS_fchdir,
    SYS_fcntl,
    SYS_prctl,
    SYS_seccomp,
    SYS_socketpair,
];

/// As [`ALLOWED_BITS`].
pub(super) const ZYGOTE_BITS: &[(c_long, u8, u64, u64)] = &[
    // A process, in the namespaces of this one and with its descriptors.
    (
        SYS_clone,
        0,
        NEW_NAMESPACE | (CLONE_THREAD | CLONE_VM | CLONE_FILES) as u64,
        CLONE_FILES as u64,
    ),
    // Nothing: whether there is one thread.
    (SYS_unshare, 0, u64::MAX, CLONE_THREAD as u64),
];

/// Calls that give ENOSYS, which their caller expects of an older kernel.
pub(super) const UNKNOWN: &[c_long] = &[SYS_clone3];

/// Numbers that are never in the lists, whatever else is: each reaches beyond the sandbox.
#[cfg(test)]
pub(super) const NEVER: &[c_long] = &[
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsmount,
    SYS_mount_setattr,
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_bpf,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_kill,
    SYS_tkill,
    SYS_pidfd_open,
    SYS_pidfd_getfd,
    SYS_pidfd_send_signal,
    SYS_setuid,
    SYS_setresuid,
    SYS_seccomp,
    SYS_personality,
    SYS_swapon,
    SYS_acct,
    SYS_quotactl,
];

/// System call numbers of every architecture are below this.
pub(super) const NUMBERS: RangeInclusive<c_long> = 0..=1023;
