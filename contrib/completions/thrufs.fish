# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_thrufs_global_optspecs
    string join \n print-capabilities h/help V/version
end

function __fish_thrufs_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_thrufs_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_thrufs_using_subcommand
    set -l cmd (__fish_thrufs_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c thrufs -n "__fish_thrufs_needs_command" -l print-capabilities -d 'Print what this build offers, as JSON'
complete -c thrufs -n "__fish_thrufs_needs_command" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_needs_command" -s V -l version -d 'Print version'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "mount" -d 'Make SOURCE appear at MOUNTPOINT'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "device" -d 'Serve a directory to a virtual machine, in place of virtiofsd'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "umount" -d 'Unmount MOUNTPOINT'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "status" -d 'Show what a mount or a device is doing'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "top" -d 'Show live what all mounts and devices are doing, by request and by calling process'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "doctor" -d 'Look for what keeps mounts from working here, and for what is wrong with those that there are'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "upgrade" -d 'Have another binary serve a mount that is in use (--survive)'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "set" -d 'Change options of a mount that is in use (--survive)'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "demo" -d 'Mount a scratch directory, work in it, show what the kernel sent, and clean up'
complete -c thrufs -n "__fish_thrufs_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s o -d 'Mount options, comma-separated: ro rw [no]dev [no]suid [no]exec [no]atime sync dirsync, and every long option; `\\,` is a comma inside a value' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l cache -d 'What the client kernel may cache: never = nothing (direct I/O), auto = data of open files until it is changed under SOURCE and metadata for 1 s, always = everything, metadata = metadata only' -r -f -a "never\t''
auto\t''
always\t''
metadata\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l attr-timeout -d 'Seconds for which attributes are cached [default: by --cache]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l entry-timeout -d 'Seconds for which names are cached [default: by --cache]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l negative-timeout -d 'Seconds for which it is cached that a name does not exist [default: 0]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l dir-timeout -d 'Seconds for which names of directories are cached [default: as --entry-timeout]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l posix-acl -d 'Serve POSIX ACLs (implies --xattr): auto = if the kernel can, always = or fail' -r -f -a "never\t''
auto\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l allow-mmap -d 'Let files that are not cached (--cache=never, metadata) be mapped shared. The kernel then loses what is written by write(2) to a page while another thread stores to the same page through the mapping' -r -f -a "yes\t''
no\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l inode-file-handles -d 'Hold inodes by file handle, so that known files cost no descriptors [default: prefer, but never in a sandbox when SOURCE is a part of a file system, of which a handle could name the rest]' -r -f -a "never\t''
prefer\t''
mandatory\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l max-inodes -d 'Inodes that the kernel is to know at most, 0 for any number; what is in use stays (Linux 6.18) [default: any number, or half of the open files where each inode costs one]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l locks -d 'Where POSIX and flock locks are kept: local = in the client kernel, host = on SOURCE, where other processes see them' -r -f -a "local\t''
host\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l passthrough -d 'Let READ and WRITE go from the kernel to the backing file, past the daemon (Linux 6.9, root): auto = where it can be, always = or fail [default: auto for root, where no other option asks that the daemon see each READ and WRITE; else never]' -r -f -a "never\t''
auto\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l durability -d 'When written bytes are on stable storage: fsync = when fsync(2) has returned, dsync = before each WRITE is answered' -r -f -a "fsync\t''
dsync\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l write-joining -d 'Do WRITEs to one file that wait at the same time together: auto = where it pays, with --durability=dsync' -r -f -a "never\t''
auto\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l max-write -d 'Largest WRITE to ask for, in bytes (K and M are understood); the kernel may grant less' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l request-timeout -d 'Have the kernel abort the mount when a request has had no answer for so long, at least 15 seconds; it looks every 15 seconds (Linux 6.15; root, unless with --transport=device)' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l without -d 'For diagnosis: do not ask the kernel for a capability of FUSE, such as FUSE_DO_READDIRPLUS; may be given several times (see `thrufs status` for those that are on)' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l translate-uid -d 'Translate user ids between the client (the guest) and SOURCE (the host); may be repeated: map:GUEST:HOST:COUNT both ways, guest:GUEST:HOST:COUNT, host:HOST:GUEST:COUNT, squash-guest:GUEST:HOST:COUNT and squash-host:HOST:GUEST:COUNT many to one, forbid-guest:GUEST:COUNT fails with EPERM; an id without a rule stays as it is' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l translate-gid -d 'The same for group ids' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l xattrmap -d 'Give extended attributes other names on SOURCE (implies --xattr): rules :TYPE:SCOPE:KEY:PREPEND: of which the first that matches holds, TYPE one of prefix ok bad unsupported, SCOPE one of client server all, any character for `:`; or :map:KEY:PREPEND:' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l sandbox -d 'Where the serving process is shut in: namespace = namespaces of its own with SOURCE as root, chroot = SOURCE as root, none [default: for root namespace, or what the machine allows of it; for a user none]' -r -f -a "namespace\t''
chroot\t''
none\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l seccomp -d 'What happens to it at a system call that serving needs not: kill = it ends, trap = SIGSYS, log = the kernel\'s log, none = nothing is filtered' -r -f -a "kill\t''
log\t''
trap\t''
none\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l modcaps -d 'Capabilities to keep (+) or drop (-) beside those that serving needs, such as +sys_admin:-mknod' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l uid-map -d 'Serve in a user namespace with these users, :INSIDE:OUTSIDE:COUNT: (needs --sandbox=namespace) [default for a user: itself]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l gid-map -d 'The same for groups' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l fsname -d 'First column of `mount` and findmnt [default: SOURCE]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l subtype -d 'The type is shown as fuse.NAME' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l max-read -d 'Largest READ in bytes (K and M are understood) [default: the kernel\'s]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l read-ahead -d 'How far the kernel reads ahead, and so how large a READ is, in bytes (K and M are understood; root) [default: the kernel\'s, 128K]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l log-level -d 'How much to log' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l rlimit-nofile -d 'Number of open files to allow, 0 to leave the limit alone [default: the hard limit, or 1000000 where the kernel allows it]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l metrics -d 'Serve counters to Prometheus at http://ADDRESS/metrics, and a page for people at /: a port of the loopback interface, or ADDRESS:PORT' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l thread-pool-size -d 'Session threads [default: 8, or 16 with --durability=dsync]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l transport -d 'How requests come from the kernel: by the fuser library, or by a loop of thrufs\'s own on /dev/fuse' -r -f -a "fuser\t''
device\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l survive -d 'What happens when the serving process dies: the mount is dead (never), or another process goes on where it was, without an error to anybody (always). Needs --transport=device and Linux 6.9; not with --watch or --inode-file-handles' -r -f -a "never\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l survive-deaths -d 'Deaths within a minute that a mount with --survive outlives' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l xattr -d 'Serve extended attributes'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l readonly -d 'Refuse every change (EROFS), and mount read-only'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l no-readdirplus -d 'Do not answer READDIRPLUS'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l allow-direct-io -d 'Open the backing file with O_DIRECT when the client does'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l writeback -d 'Let write(2) return when the bytes are in the kernel\'s cache; a failure shows at fsync(2)'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l one-page-writes -d 'One page in each WRITE: the slow way, to compare with'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l raise-max-pages-limit -d 'Raise fs.fuse.max_pages_limit for as long as mounting takes, so that --max-write is granted (root)'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l watch -d 'Show what others change under SOURCE at once, whatever is cached (root; the whole file system of SOURCE is watched)'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l allow-other -d 'Let every user in (the default for root)'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l allow-root -d 'Let root in beside the user who mounts'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l default-permissions -d 'Let the kernel check permissions; always on, accepted for compatibility'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l replace-dead -d 'Unmount what a daemon that died left at MOUNTPOINT, then mount'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l nonempty -d 'Mount over a FUSE mount that is at MOUNTPOINT already, and do not warn of files there'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l idmap -d 'Let the mount be mounted again with other ids (mount --bind -o X-mount.idmap; Linux 6.12, --transport=device). Who makes a request is then known to the kernel alone, by what it has cached'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s f -l foreground -d 'Stay in the foreground and log to standard error'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s d -l debug -d 'Foreground with --log-level=debug'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l syslog -d 'Log to the system log instead of standard error'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -l clone-fd -d 'Give each session thread its own /dev/fuse descriptor'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s V -l version -d 'Print version'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l shared-dir -d 'Directory to serve, or a file, which cannot be shut in' -r -F
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l socket-path -d 'Socket to listen on for the virtual machine monitor; SOCKET.pid beside it has the process\'s number' -r -F
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l socket-group -d 'Group that may connect to SOCKET' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l fd -d 'Descriptor of a socket that listens, in place of SOCKET [default: the one that systemd passes]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l tag -d 'Name of the device in the guest, for a virtual machine monitor that asks for it, 1 to 36 bytes' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l num-request-queues -d 'Request queues, each with a thread of its own; the virtual machine monitor is told how many of them it uses [default: this machine\'s CPUs, at most 16]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -s o -d 'Options as the C virtiofsd had them' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l cache -d 'What the client kernel may cache: never = nothing (direct I/O), auto = data of open files until it is changed under SOURCE and metadata for 1 s, always = everything, metadata = metadata only' -r -f -a "never\t''
auto\t''
always\t''
metadata\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l attr-timeout -d 'Seconds for which attributes are cached [default: by --cache]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l entry-timeout -d 'Seconds for which names are cached [default: by --cache]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l negative-timeout -d 'Seconds for which it is cached that a name does not exist [default: 0]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l dir-timeout -d 'Seconds for which names of directories are cached [default: as --entry-timeout]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l posix-acl -d 'Serve POSIX ACLs (implies --xattr): auto = if the kernel can, always = or fail' -r -f -a "never\t''
auto\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l allow-mmap -d 'Let files that are not cached (--cache=never, metadata) be mapped shared. The kernel then loses what is written by write(2) to a page while another thread stores to the same page through the mapping' -r -f -a "yes\t''
no\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l inode-file-handles -d 'Hold inodes by file handle, so that known files cost no descriptors [default: prefer, but never in a sandbox when SOURCE is a part of a file system, of which a handle could name the rest]' -r -f -a "never\t''
prefer\t''
mandatory\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l locks -d 'Where POSIX and flock locks are kept: local = in the client kernel, host = on SOURCE, where other processes see them' -r -f -a "local\t''
host\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l durability -d 'When written bytes are on stable storage: fsync = when fsync(2) has returned, dsync = before each WRITE is answered' -r -f -a "fsync\t''
dsync\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l write-joining -d 'Do WRITEs to one file that wait at the same time together: auto = where it pays, with --durability=dsync' -r -f -a "never\t''
auto\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l max-write -d 'Largest WRITE to ask for, in bytes (K and M are understood); the kernel may grant less' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l without -d 'For diagnosis: do not ask the kernel for a capability of FUSE, such as FUSE_DO_READDIRPLUS; may be given several times (see `thrufs status` for those that are on)' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l translate-uid -d 'Translate user ids between the client (the guest) and SOURCE (the host); may be repeated: map:GUEST:HOST:COUNT both ways, guest:GUEST:HOST:COUNT, host:HOST:GUEST:COUNT, squash-guest:GUEST:HOST:COUNT and squash-host:HOST:GUEST:COUNT many to one, forbid-guest:GUEST:COUNT fails with EPERM; an id without a rule stays as it is' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l translate-gid -d 'The same for group ids' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l xattrmap -d 'Give extended attributes other names on SOURCE (implies --xattr): rules :TYPE:SCOPE:KEY:PREPEND: of which the first that matches holds, TYPE one of prefix ok bad unsupported, SCOPE one of client server all, any character for `:`; or :map:KEY:PREPEND:' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l sandbox -d 'Where the serving process is shut in: namespace = namespaces of its own with SOURCE as root, chroot = SOURCE as root, none [default: for root namespace, or what the machine allows of it; for a user none]' -r -f -a "namespace\t''
chroot\t''
none\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l seccomp -d 'What happens to it at a system call that serving needs not: kill = it ends, trap = SIGSYS, log = the kernel\'s log, none = nothing is filtered' -r -f -a "kill\t''
log\t''
trap\t''
none\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l modcaps -d 'Capabilities to keep (+) or drop (-) beside those that serving needs, such as +sys_admin:-mknod' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l uid-map -d 'Serve in a user namespace with these users, :INSIDE:OUTSIDE:COUNT: (needs --sandbox=namespace) [default for a user: itself]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l gid-map -d 'The same for groups' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l log-level -d 'How much to log' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l rlimit-nofile -d 'Number of open files to allow, 0 to leave the limit alone [default: the hard limit, or 1000000 where the kernel allows it]' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l metrics -d 'Serve counters to Prometheus at http://ADDRESS/metrics: a port of the loopback interface, or ADDRESS:PORT' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l survive -d 'What happens when the serving process dies: the device ends (never), or another process goes on where it was, without an error in the guest (always). Not with --inode-file-handles, --sandbox=chroot or a user namespace' -r -f -a "never\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l survive-deaths -d 'Deaths within a minute that a device with --survive outlives' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l thread-pool-size -d 'Accepted for compatibility: each request queue has one thread' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l security-label -d 'Give new files the labels of the guest\'s security module: never, auto = where guest and DIR take part, always' -r -f -a "never\t''
auto\t''
always\t''"
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l keep -d 'Wait for the next front end when one has disconnected, rather than end'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l xattr -d 'Serve extended attributes'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l readonly -d 'Refuse every change (EROFS), and mount read-only'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l no-readdirplus -d 'Do not answer READDIRPLUS'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l allow-direct-io -d 'Open the backing file with O_DIRECT when the client does'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l writeback -d 'Let write(2) return when the bytes are in the kernel\'s cache; a failure shows at fsync(2)'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l one-page-writes -d 'One page in each WRITE: the slow way, to compare with'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -s d -l debug -d 'As --log-level=debug'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l syslog -d 'Log to the system log instead of standard error'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l print-capabilities -d 'Print what this build offers, as JSON'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l announce-submounts -d 'Tell the guest of file systems that are mounted below DIR, so that each has a device number and statfs(2) of its own there (the default)'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l no-announce-submounts -d 'Let them appear as directories of one file system, with inode numbers that no two files have'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l killpriv-v2 -d 'Accepted for compatibility: set-uid and set-gid bits are always removed on a write'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l no-killpriv-v2 -d 'Accepted for compatibility, and without effect'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -l preserve-noatime -d 'Accepted for compatibility: O_NOATIME is kept where it may be used'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand device" -s V -l version -d 'Print version'
complete -c thrufs -n "__fish_thrufs_using_subcommand umount" -s l -l lazy -d 'Take it out of the tree now, although files in it are open'
complete -c thrufs -n "__fish_thrufs_using_subcommand umount" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand status" -l watch -d 'Show it again and again, with rates; ends on ^C' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand status" -l json -d 'Print JSON: durations in nanoseconds, sizes in bytes'
complete -c thrufs -n "__fish_thrufs_using_subcommand status" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -s d -l delay -d 'Seconds between two tables' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -s n -l iterations -d 'End after so many tables' -r
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -l sort -d 'What comes first' -r -f -a "requests\t'The most requests'
bytes\t'The most bytes read and written'
latency\t'The longest mean latency'
name\t'By name'"
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -l by -d 'What the requests are listed by in a terminal' -r -f -a "process\t'The calling process'
opcode\t'The FUSE request'"
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -s b -l batch -d 'Print tables one after the other, without keys: for scripts'
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -l json -d 'Print a JSON object for each table, a line each: rates a second, sizes in bytes, latencies in nanoseconds'
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c thrufs -n "__fish_thrufs_using_subcommand doctor" -l json -d 'Print JSON'
complete -c thrufs -n "__fish_thrufs_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand upgrade" -l binary -d 'What is to serve it [default: this program]' -r -F
complete -c thrufs -n "__fish_thrufs_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand set" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand demo" -l scratch -d 'Where to make the scratch directory [default: $TMPDIR or /tmp]' -r -F
complete -c thrufs -n "__fish_thrufs_using_subcommand demo" -s h -l help -d 'Print help'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "mount" -d 'Make SOURCE appear at MOUNTPOINT'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "device" -d 'Serve a directory to a virtual machine, in place of virtiofsd'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "umount" -d 'Unmount MOUNTPOINT'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "status" -d 'Show what a mount or a device is doing'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "top" -d 'Show live what all mounts and devices are doing, by request and by calling process'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "doctor" -d 'Look for what keeps mounts from working here, and for what is wrong with those that there are'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "upgrade" -d 'Have another binary serve a mount that is in use (--survive)'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "set" -d 'Change options of a mount that is in use (--survive)'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "demo" -d 'Mount a scratch directory, work in it, show what the kernel sent, and clean up'
complete -c thrufs -n "__fish_thrufs_using_subcommand help; and not __fish_seen_subcommand_from mount device umount status top doctor upgrade set demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'

# The last item of a comma-separated list, or its value.
function __fish_thrufs_mount_options
    set -l token (commandline -ct)
    test -n "$token"; or set token ''
    set -l item (string replace -r '.*,' '' -- $token)
    set -l before (string replace -r '[^,]*$' '' -- $token)
    set -l all ro rw nodev dev nosuid suid noexec exec noatime atime nodiratime diratime relatime norelatime strictatime nostrictatime lazytime nolazytime sync async dirsync remount cache= attr_timeout= entry_timeout= negative_timeout= dir_timeout= xattr posix_acl posix_acl= readonly no_readdirplus allow_direct_io allow_mmap allow_mmap= inode_file_handles= max_inodes= locks= passthrough= writeback durability= write_joining= max_write= one_page_writes raise_max_pages_limit request_timeout= watch without= translate_uid= translate_gid= xattrmap= sandbox= seccomp= modcaps= uid_map= gid_map= allow_other allow_root default_permissions replace_dead nonempty fsname= subtype= idmap max_read= read_ahead= foreground debug log_level= syslog rlimit_nofile= metrics= thread_pool_size= clone_fd transport= survive= survive_deaths=
    switch "$item"
        case 'cache=*'
            set all cache=never cache=auto cache=always cache=metadata
        case 'xattr=*'
            set all xattr=true xattr=false
        case 'posix_acl=*'
            set all posix_acl=never posix_acl=auto posix_acl=always
        case 'readonly=*'
            set all readonly=true readonly=false
        case 'no_readdirplus=*'
            set all no_readdirplus=true no_readdirplus=false
        case 'allow_direct_io=*'
            set all allow_direct_io=true allow_direct_io=false
        case 'allow_mmap=*'
            set all allow_mmap=yes allow_mmap=no
        case 'inode_file_handles=*'
            set all inode_file_handles=never inode_file_handles=prefer inode_file_handles=mandatory
        case 'locks=*'
            set all locks=local locks=host
        case 'passthrough=*'
            set all passthrough=never passthrough=auto passthrough=always
        case 'writeback=*'
            set all writeback=true writeback=false
        case 'durability=*'
            set all durability=fsync durability=dsync
        case 'write_joining=*'
            set all write_joining=never write_joining=auto write_joining=always
        case 'one_page_writes=*'
            set all one_page_writes=true one_page_writes=false
        case 'raise_max_pages_limit=*'
            set all raise_max_pages_limit=true raise_max_pages_limit=false
        case 'watch=*'
            set all watch=true watch=false
        case 'sandbox=*'
            set all sandbox=namespace sandbox=chroot sandbox=none
        case 'seccomp=*'
            set all seccomp=kill seccomp=log seccomp=trap seccomp=none
        case 'allow_other=*'
            set all allow_other=true allow_other=false
        case 'allow_root=*'
            set all allow_root=true allow_root=false
        case 'default_permissions=*'
            set all default_permissions=true default_permissions=false
        case 'replace_dead=*'
            set all replace_dead=true replace_dead=false
        case 'nonempty=*'
            set all nonempty=true nonempty=false
        case 'idmap=*'
            set all idmap=true idmap=false
        case 'foreground=*'
            set all foreground=true foreground=false
        case 'debug=*'
            set all debug=true debug=false
        case 'log_level=*'
            set all log_level=off log_level=error log_level=warn log_level=info log_level=debug log_level=trace
        case 'syslog=*'
            set all syslog=true syslog=false
        case 'clone_fd=*'
            set all clone_fd=true clone_fd=false
        case 'transport=*'
            set all transport=fuser transport=device
        case 'survive=*'
            set all survive=never survive=always
        case '*-*'
            set all (string replace -a _ - -- $all)
    end
    for each in $all
        echo "$before$each"
    end
end

# From the mount table alone: a mount that hangs is not looked at.
function __fish_thrufs_mountpoints
    while read -l from dir type rest
        test "$type" = fuse.thrufs; and string unescape -- $dir
    end </proc/self/mounts
end

complete -c thrufs -n "__fish_thrufs_using_subcommand mount" -s o -x -a '(__fish_thrufs_mount_options)'
complete -c thrufs -n "__fish_thrufs_using_subcommand umount" -f -a '(__fish_thrufs_mountpoints)'
complete -c thrufs -n "__fish_thrufs_using_subcommand status" -a '(__fish_thrufs_mountpoints)'
complete -c thrufs -n "__fish_thrufs_using_subcommand top" -a '(__fish_thrufs_mountpoints)'
complete -c thrufs -n "__fish_thrufs_using_subcommand doctor" -a '(__fish_thrufs_mountpoints)'
complete -c thrufs -n "__fish_thrufs_using_subcommand upgrade" -a '(__fish_thrufs_mountpoints)'
complete -c thrufs -n "__fish_thrufs_using_subcommand set" -a '(__fish_thrufs_mountpoints)'
