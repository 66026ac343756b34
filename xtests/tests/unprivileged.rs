//! Mounts by a user: through fusermount3, sandboxed as /proc shows it, and with a clear error where
//! the machine does not let a user mount.
//!
//! Invariant: the machine stays as it is. The user, /etc/fuse.conf and the mode of /dev/fuse belong
//! to a mount namespace that the test's thread makes for itself; its mounts are seen nowhere else,
//! and end with it. Not the machine's own users, which may be few: fusermount3 requires a user with a name.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use xtests::support::calls::{chmod, errno, refused};
use xtests::support::checks::{equal, holds, mentions};
use xtests::support::command::{output, said_on_stderr, succeed};
use xtests::support::mount::{STRANGE_NAMES, cache_mode, thrufs, transport_option};
use xtests::support::mount_table::mount_table;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, Scratch, User, case, missing, unmounted};

const SOON: Duration = Duration::from_secs(10);
/// An id without any other owner.
const USER: u32 = 54_321;
const NAME: &str = "thrufs-test";
/// The first of the ids that the user may give to namespaces.
const SUBORDINATE: u32 = 200_000;
const OF_UIDS: &str = "--uid-map=:0:200000:65536:";
const OF_GIDS: &str = "--gid-map=:0:200000:65536:";
const NOTHING: Option<&str> = None;

/// A user's machine, seen by this thread and the programs that it starts.
struct Machine<'a> {
    /// Must end outside, where nothing is mounted in it.
    scratch: &'a Scratch,
    /// A tmpfs with the differences to the machine around it.
    own: PathBuf,
}

/// Runs `body` in a thread with a machine of its own.
fn on_machine(body: impl FnOnce(&Machine<'_>) -> Outcome + Send) -> Outcome {
    case(|| {
        let (scratch, _leftover) = unmounted()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let machine = Machine::new(&scratch)?;
                body(&machine)
            });
            thread.join().map_err(|_| anyhow!("the test panicked"))?
        })
    })
}

fn bind(what: &Path, on: &Path) -> Outcome {
    mount(Some(what), on, NOTHING, MsFlags::MS_BIND, NOTHING)
        .with_context(|| format!("bind {} on {}", what.display(), on.display()))
}

impl<'a> Machine<'a> {
    fn new(scratch: &'a Scratch) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|errno| missing(format!("a mount namespace: {errno}")))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NOTHING, "/", NOTHING, private, NOTHING).context("a private mount namespace")?;
        let own = scratch.path().join("own");
        std::fs::create_dir(&own)?;
        // Not in the scratch directory itself, where devices may not be opened.
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &own, tmpfs, MsFlags::empty(), Some("mode=0755"))?;
        let machine = Self { scratch, own };
        // As udev makes them.
        machine.make_device("null", makedev(1, 3))?;
        machine.make_device("fuse", makedev(10, 229))?;
        let users = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        machine.replace(
            "/etc/passwd",
            &format!("{users}{NAME}:x:{USER}:{USER}::/:/bin/sh\n"),
        )?;
        machine.replace("/etc/fuse.conf", "")?;
        // The user may have no access to the build directory.
        let program = machine.program();
        File::create(&program)?;
        bind(&thrufs()?, &program)?;
        for directory in [machine.runtime(), machine.source(), machine.mountpoint()] {
            std::fs::create_dir_all(&directory)?;
            chown(&directory, Some(USER), Some(USER))?;
        }
        chown(machine.source().join("f"), Some(USER), Some(USER))?;
        chmod(machine.runtime(), 0o700)?;
        Ok(machine)
    }

    /// Gives the machine a device of its own that all users may open.
    fn make_device(&self, name: &str, number: u64) -> Outcome {
        let device = self.own.join(name);
        mknod(&device, SFlag::S_IFCHR, Mode::empty(), number)
            .map_err(|errno| missing(format!("mknod of /dev/{name}: {errno}")))?;
        chmod(&device, 0o666)?;
        bind(&device, &Path::new("/dev").join(name))
    }

    /// Gives a file of the machine another content.
    fn replace(&self, path: &str, content: &str) -> Outcome {
        let path = Path::new(path);
        if !path.exists() {
            return Err(missing(format!("{} (fuse3)", path.display())));
        }
        let other = self.own.join(path.file_name().context("a file's name")?);
        std::fs::write(&other, content)?;
        bind(&other, path)
    }

    fn let_users_open_the_device(&self, they_may: bool) -> Outcome {
        let mode = if they_may { 0o666 } else { 0o600 };
        let device = self.own.join("fuse");
        Ok(chmod(device, mode)?)
    }

    /// Leaves no fusermount3 on the search path.
    fn remove_helper(&self) -> Outcome {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let fixed = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        for directory in std::env::split_paths(&path).chain(fixed) {
            let helper = directory.join("fusermount3");
            if helper.is_file() {
                bind(Path::new("/dev/null"), &helper)?;
            }
        }
        Ok(())
    }

    fn program(&self) -> PathBuf {
        self.own.join("thrufs")
    }

    fn runtime(&self) -> PathBuf {
        self.own.join("run")
    }

    fn source(&self) -> PathBuf {
        self.scratch.source()
    }

    fn mountpoint(&self) -> PathBuf {
        self.scratch.mountpoint()
    }

    /// `program` as the user.
    fn by_user(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.uid(USER).gid(USER).current_dir("/");
        command.env("XDG_RUNTIME_DIR", self.runtime());
        command
    }

    /// `thrufs mount` by the user, in the background.
    fn mount(&self, options: &[&str]) -> Result<(Output, Detached)> {
        let mut command = self.by_user(self.program());
        command.arg("mount").args(transport_option()).args(options);
        if !options.iter().any(|option| option.starts_with("--cache")) {
            command.arg(format!("--cache={}", cache_mode()));
        }
        let mounted = output(command.args([self.source(), self.mountpoint()]))?;
        Ok((mounted, Detached(self.mountpoint())))
    }

    /// The same, which must succeed; returns the process that serves.
    fn mounted(&self, options: &[&str]) -> Result<(Server, Detached)> {
        let (mounted, detached) = self.mount(options)?;
        let told = said_on_stderr(&mounted);
        ensure!(mounted.status.success(), "{options:?}: {told}");
        let mut status = self.by_user(self.program());
        let status = succeed(status.args(["status", "--json"]).arg(self.mountpoint()))?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let pid = status["server_pid"].as_u64().context("no server_pid")?;
        Ok((Server(pid), detached))
    }

    /// Makes sure that a mount with these options fails and says each of `wanted`.
    fn refuses(&self, options: &[&str], wanted: &[&str]) -> Outcome {
        let (refused, _detached) = self.mount(options)?;
        let text = said_on_stderr(&refused);
        ensure!(!refused.status.success(), "{options:?}: success");
        ensure!(!text.contains("panicked"), "{text}");
        ensure!(self.line()?.is_none(), "{options:?}: left mounted");
        wanted.iter().try_for_each(|wanted| mentions(&text, wanted))
    }

    /// The mount, in this thread's mount namespace.
    fn line(&self) -> Result<Option<String>> {
        let table = mount_table("/proc/thread-self/mountinfo")?;
        let point = format!(" {} ", self.mountpoint().display());
        let mut lines = table.lines().filter(|line| line.contains(&point));
        Ok(lines.next().map(str::to_owned))
    }

    /// What `thrufs doctor` tells the user of the machine, and its exit code.
    fn doctor(&self) -> Result<(serde_json::Value, Option<i32>)> {
        let mut doctor = self.by_user(self.program());
        let said = output(doctor.args(["doctor", "--json"]))?;
        let told = said_on_stderr(&said);
        let report = serde_json::from_slice(&said.stdout).with_context(|| told);
        Ok((report?, said.status.code()))
    }

    fn unmount(&self, server: &Server) -> Outcome {
        let mut umount = self.by_user(self.program());
        succeed(umount.arg("umount").arg(self.mountpoint()))?;
        ensure!(self.line()?.is_none(), "it is still mounted");
        wait_until("the server to be gone", SOON, || {
            Ok(!server.path("").exists())
        })
    }
}

/// A mount point of this thread's mount namespace, where nothing stays mounted.
struct Detached(PathBuf);

impl Drop for Detached {
    fn drop(&mut self) {
        // Fails if nothing is mounted, which is the aim.
        let _nothing = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The process that serves.
struct Server(u64);

impl Server {
    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    fn has_own_namespace(&self, kind: &str) -> Result<bool> {
        let own = std::fs::read_link(self.path("ns").join(kind))?;
        Ok(own != std::fs::read_link(Path::new("/proc/thread-self/ns").join(kind))?)
    }

    /// The lines of its status, after a check of those that are the same in each sandbox.
    fn check_status(&self) -> Result<HashMap<String, String>> {
        let text = std::fs::read_to_string(self.path("status"))?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let status: HashMap<String, String> = pairs
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let ids = vec![USER.to_string(); 4].join("\t");
        for (name, wanted) in [
            ("Uid", ids.as_str()),
            ("Gid", ids.as_str()),
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapInh", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            ensure!(status[name] == wanted, "{name}: {}", status[name]);
        }
        Ok(status)
    }
}

/// A user's operations in the mount, and their result in SOURCE.
fn work(machine: &Machine<'_>) -> Outcome {
    let (dir, source) = (machine.mountpoint(), machine.source());
    User::new(USER, USER).act(|| {
        holds(dir.join("f"), b"content")?;
        std::fs::create_dir(dir.join("d"))?;
        std::fs::write(dir.join("d/new"), vec![7; 100_000])?;
        std::fs::rename(dir.join("d/new"), dir.join("g"))?;
        holds(dir.join("g"), vec![7; 100_000])?;
        ensure!(std::fs::read_dir(&dir)?.count() == 3, "f, d and g");
        // Having a daemon makes the user no root.
        refused(chown(dir.join("g"), Some(0), Some(0)), libc::EPERM)?;
        Ok(std::fs::remove_dir(dir.join("d"))?)
    })?;
    holds(source.join("g"), vec![7; 100_000])?;
    ensure!(source.join("g").metadata()?.uid() == USER, "the owner");
    // No other user, root included, is let in.
    let error = std::fs::read(dir.join("f")).expect_err("root is let in");
    ensure!(error.kind() == ErrorKind::PermissionDenied, "{error}");
    Ok(())
}

#[test]
fn mount_of_a_user_serves_that_user_with_no_capability_and_a_filter() -> Outcome {
    on_machine(|machine| {
        let (server, _detached) = machine.mounted(&[])?;
        work(machine)?;
        server.check_status()?;
        ensure!(!server.has_own_namespace("mnt")?, "nothing was asked for");
        let line = machine.line()?.context("it is not mounted")?;
        for wanted in [
            "nosuid",
            "nodev",
            "default_permissions",
            " - fuse.thrufs ",
            &format!("user_id={USER}"),
        ] {
            ensure!(line.contains(wanted), "no {wanted}: {line}");
        }
        machine.unmount(&server)
    })
}

/// The kernel tells the server of nearly no caller then, and refuses all but the user by itself.
#[test]
fn mount_of_a_user_that_may_be_idmapped_serves_that_user_alone() -> Outcome {
    on_machine(|machine| {
        let (server, _detached) = machine.mounted(&["--transport=device", "--idmap"])?;
        work(machine)?;
        machine.unmount(&server)
    })
}

/// Whether this user can make the namespaces, by util-linux's own means.
fn require_namespaces(machine: &Machine<'_>) -> Outcome {
    let mut unshare = machine.by_user("/usr/bin/unshare");
    let tried = output(unshare.args(["-Urmpnif", "--mount-proc", "true"]))?;
    if tried.status.success() {
        return Ok(());
    }
    let options = ["--sandbox=namespace"];
    machine.refuses(&options, &["--sandbox=namespace", "forbid"])?;
    Err(missing(format!(
        "user namespaces for users: {}",
        said_on_stderr(&tried)
    )))
}

/// Root of a user namespace mounts, queries, works, unmounts. The mount and its daemon are in that
/// namespace alone, so nothing may be left there.
const BY_ROOT_INSIDE: &str = r#"
set -e
trap '"$1" umount --lazy "$3" 2>/dev/null || true' EXIT
"$1" mount "$4" "$2" "$3"
"$1" status --json "$3"
"$1" status >&2
echo made >"$3/made"
"$1" umount "$3"
grep -q " $3 " /proc/self/mountinfo && exit 3
trap - EXIT
"#;

/// The daemon told root of a user namespace to remove the machine's own /run/thrufs, and had no status.
#[test]
fn mount_by_root_of_a_user_namespace_has_a_status_of_its_own() -> Outcome {
    on_machine(|machine| {
        require_namespaces(machine)?;
        let in_tmp = PathBuf::from(format!("/tmp/thrufs-{USER}"));
        let of_runtime = machine.runtime().join("thrufs");
        for (runtime, directory) in [(Some(machine.runtime()), &of_runtime), (None, &in_tmp)] {
            let mut inside = machine.by_user("/usr/bin/unshare");
            inside.args(["--user", "--map-root-user", "--mount"]);
            inside.args(["sh", "-c", BY_ROOT_INSIDE, "sh"]);
            inside.args([machine.program(), machine.source(), machine.mountpoint()]);
            inside.arg(format!("--cache={}", cache_mode()));
            match runtime {
                Some(runtime) => inside.env("XDG_RUNTIME_DIR", runtime),
                None => inside.env_remove("XDG_RUNTIME_DIR"),
            };
            let done = output(&mut inside)?;
            let text = said_on_stderr(&done);
            ensure!(done.status.success(), "{}: {text}", done.status);
            ensure!(!text.contains("will not work"), "{text}");
            let status: serde_json::Value = serde_json::from_slice(&done.stdout)?;
            let mountpoint = machine.mountpoint();
            let shown = mountpoint.to_string_lossy();
            ensure!(status["mountpoint"] == *shown, "{status}");
            mentions(&text, &format!("{shown}: /"))?;
            ensure!(machine.source().join("made").metadata()?.uid() == USER);
            // The outer user of root inside; empty once the daemon has ended.
            equal(directory.display(), directory.metadata()?.uid(), USER)?;
            wait_until(
                "the socket to be gone",
                SOON,
                || match std::fs::remove_dir(directory) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
                    Err(error) => Err(error.into()),
                },
            )?;
        }
        Ok(())
    })
}

#[test]
fn mount_of_a_user_in_namespaces_has_nothing_but_source() -> Outcome {
    on_machine(|machine| {
        require_namespaces(machine)?;
        let (server, _detached) = machine.mounted(&["--sandbox=namespace"])?;
        work(machine)?;
        let status = server.check_status()?;
        for kind in ["user", "mnt", "pid", "net", "ipc"] {
            let is_own = server.has_own_namespace(kind)?;
            ensure!(is_own, "the {kind} namespace is the host's");
        }
        let nspid = &status["NSpid"];
        ensure!(nspid.split_whitespace().last() == Some("1"), "{nspid}");
        holds(server.path("root/f"), b"content")?;
        let mounts = std::fs::read_to_string(server.path("mountinfo"))?;
        ensure!(mounts.lines().count() == 1, "{mounts}");
        machine.unmount(&server)
    })
}

#[test]
fn mount_of_a_user_with_maps_of_ids_serves_in_those_that_are_the_users_to_give() -> Outcome {
    on_machine(|machine| {
        require_namespaces(machine)?;
        let maps = ["--sandbox=namespace", OF_UIDS, OF_GIDS];
        machine.refuses(&maps, &["newuidmap refuses", "in /etc/subuid?"])?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            machine.replace(file, &format!("{NAME}:{SUBORDINATE}:65536\n"))?;
        }
        chown(machine.source(), Some(SUBORDINATE), Some(SUBORDINATE))?;
        chmod(machine.source(), 0o777)?;
        let (server, _detached) = machine.mounted(&maps)?;
        User::new(USER, USER).act(|| Ok(std::fs::write(machine.mountpoint().join("new"), "x")?))?;
        let made = machine.source().join("new").metadata()?;
        let owner = SUBORDINATE + USER;
        ensure!((made.uid(), made.gid()) == (owner, owner), "{made:?}");
        machine.unmount(&server)
    })
}

#[test]
fn mount_of_a_user_for_others_wants_the_line_in_fuse_conf() -> Outcome {
    on_machine(|machine| {
        machine.refuses(&["--allow-other"], &["add the line `user_allow_other`"])?;
        machine.replace("/etc/fuse.conf", "user_allow_other\n")?;
        let (server, _detached) = machine.mounted(&["--allow-other"])?;
        // By root, and by another user.
        let file = machine.mountpoint().join("f");
        holds(&file, b"content")?;
        let read = User::new(USER + 1, USER + 1).act(|| Ok(std::fs::read(&file)?))?;
        ensure!(read == b"content");
        machine.unmount(&server)
    })
}

#[test]
fn doctor_by_a_user_names_what_keeps_the_user_from_mounting() -> Outcome {
    on_machine(|machine| {
        let severity = |check: &str, wanted: &str, remedy: &str| -> Outcome {
            let (report, _code) = machine.doctor()?;
            let mut machine = report["machine"].as_array().into_iter().flatten();
            let found = machine.find(|finding| finding["check"] == check);
            let found = found.with_context(|| format!("{check} in {report}"))?;
            ensure!(found["severity"] == wanted, "{found}");
            let told = found["remedy"].as_str().unwrap_or_default();
            ensure!(told.contains(remedy), "{found}");
            Ok(())
        };
        severity("fuse-device", "ok", "")?;
        severity("fusermount3", "ok", "")?;
        severity("user-allow-other", "note", "add the line")?;
        machine.replace("/etc/fuse.conf", "user_allow_other\n")?;
        severity("user-allow-other", "ok", "")?;
        machine.let_users_open_the_device(false)?;
        severity("fuse-device", "error", "chmod 0666 /dev/fuse")?;
        machine.let_users_open_the_device(true)?;
        machine.remove_helper()?;
        severity("fusermount3", "error", "install")?;
        let (report, code) = machine.doctor()?;
        ensure!(code == Some(4), "{code:?}: {report}");
        Ok(())
    })
}

/// Of mounts of others it says who may ask.
#[test]
fn doctor_and_top_of_a_user_show_the_user_s_mount() -> Outcome {
    on_machine(|machine| {
        let (server, _detached) = machine.mounted(&[])?;
        let (report, _code) = machine.doctor()?;
        let mut mounts = report["mounts"].as_array().into_iter().flatten();
        let own =
            mounts.find(|of| of["mount"].as_str().map(Path::new) == Some(&machine.mountpoint()));
        let own = own.with_context(|| format!("{report}"))?;
        ensure!(own["findings"][0]["check"] == "answers", "{own}");
        let mut writer = machine.by_user("sh");
        writer.args(["-c", "while :; do echo content > $0/written; done"]);
        let mut writer = writer.arg(machine.mountpoint()).spawn()?;
        let named = wait_until("top to name the writer", SOON, || {
            let mut top = machine.by_user(machine.program());
            top.args(["top", "--json", "-n1", "-d0.3"]);
            let rates = succeed(top.arg(machine.mountpoint()))?;
            let rates: serde_json::Value = serde_json::from_str(&rates)?;
            let mut rows = rates["processes"].as_array().into_iter().flatten();
            Ok(rows.any(|row| row["pid"] == writer.id() && row["name"] == "sh"))
        });
        writer.kill()?;
        writer.wait()?;
        named?;
        machine.unmount(&server)
    })
}

/// A second daemon covered the first one's mount, and the first umount uncovered it again.
#[test]
fn mount_of_a_user_at_a_place_that_is_mounted_names_what_is_there() -> Outcome {
    on_machine(|machine| {
        let (server, _detached) = machine.mounted(&[])?;
        let before = machine.line()?;
        let (refused, _second) = machine.mount(&[])?;
        let text = said_on_stderr(&refused);
        ensure!(!refused.status.success(), "it is mounted twice");
        ensure!(text.contains("is mounted already"), "{text}");
        ensure!(text.contains("`thrufs umount "), "{text}");
        ensure!(machine.line()? == before, "{before:?}");
        machine.unmount(&server)
    })
}

#[test]
fn mount_of_a_user_with_what_only_root_has_says_so() -> Outcome {
    on_machine(|machine| {
        machine.refuses(&["--modcaps=+sys_admin"], &["--modcaps needs root"])?;
        let (mounted, _detached) = machine.mount(&["-o", "dev,noatime"])?;
        let text = said_on_stderr(&mounted);
        ensure!(mounted.status.success(), "{text}");
        ensure!(text.contains("-o dev is ignored: only root"), "{text}");
        let line = machine.line()?.context("it is not mounted")?;
        ensure!(line.contains("nodev") && line.contains("noatime"), "{line}");
        Ok(())
    })
}

#[test]
fn mount_of_a_user_whose_server_is_killed_stays_dead_until_it_is_unmounted() -> Outcome {
    on_machine(|machine| {
        for replace in [false, true] {
            let (server, _detached) = machine.mounted(&[])?;
            kill(Pid::from_raw(i32::try_from(server.0)?), Signal::SIGKILL)?;
            wait_until("the mount to be dead", SOON, || {
                let listed =
                    User::new(USER, USER).act(|| Ok(std::fs::read_dir(machine.mountpoint())))?;
                Ok(errno(listed) == Some(libc::ENOTCONN))
            })?;
            ensure!(machine.line()?.is_some(), "it is unmounted");
            if replace {
                let (server, _detached) = machine.mounted(&["--replace-dead"])?;
                machine.unmount(&server)?;
            } else {
                machine.unmount(&server)?;
            }
        }
        Ok(())
    })
}

#[test]
fn mount_of_a_user_with_any_name_works() -> Outcome {
    on_machine(|machine| {
        for name in STRANGE_NAMES {
            let name = OsStr::from_bytes(name);
            let make = |place: &str| -> Result<PathBuf> {
                let path = machine.own.join(place).join(name);
                std::fs::create_dir_all(&path)?;
                chown(&path, Some(USER), Some(USER))?;
                Ok(path)
            };
            let (source, dir) = (make("sources")?, make("mountpoints")?);
            std::fs::write(source.join("f"), "content")?;
            let run = |words: &[&str], paths: &[&Path]| {
                let mut command = machine.by_user(machine.program());
                succeed(command.args(words).args(paths)).with_context(|| format!("{name:?}"))
            };
            let is_mounted = || User::new(USER, USER).act(|| Ok(dir.join("f").exists()));
            run(&["mount"], &[&source, &dir])?;
            let _detached = Detached(dir.clone());
            ensure!(is_mounted()?, "{name:?} is not mounted");
            run(&["status"], &[&dir])?;
            run(&["umount"], &[&dir])?;
            ensure!(!is_mounted()?, "{name:?} is still mounted");
        }
        Ok(())
    })
}

#[test]
fn mount_of_a_user_that_cannot_be_names_the_remedy() -> Outcome {
    on_machine(|machine| {
        let of_sandbox = "use --sandbox=namespace or none";
        machine.refuses(&["--sandbox=chroot"], &[of_sandbox])?;
        chown(machine.mountpoint(), Some(0), Some(0))?;
        machine.refuses(&[], &["a directory that is the user's own"])?;
        chown(machine.mountpoint(), Some(USER), Some(USER))?;
        machine.let_users_open_the_device(false)?;
        machine.refuses(&[], &["chmod 0666 /dev/fuse"])?;
        machine.let_users_open_the_device(true)?;
        machine.remove_helper()?;
        let install = ["fusermount3 is not installed", "apt-get install fuse3"];
        machine.refuses(&[], &install)
    })
}
