//! The programs, as a table: what each is run for, what is there before, and the command.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtests::support::command::succeed;
use xtests::support::trees;

use super::super::names;

/// C files of the build.
const SOURCES: usize = 40;

/// Where one program runs.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// On the file system under test.
    pub(super) dir: PathBuf,
    /// Natively: `tree`, `tree.tar`, `repository`, `package.zip`.
    pub(super) material: PathBuf,
    /// Natively, and empty.
    pub(super) scratch: PathBuf,
}

impl Scene {
    fn tree(&self) -> PathBuf {
        self.material.join("tree")
    }

    fn on(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A row of the table.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// For `--list`.
    about: &'static str,
    /// A program that it needs, and the Debian package that brings it.
    package: (&'static str, &'static str),
    /// On SOURCE, before the mount.
    pub(super) prepare: fn(&Scene) -> Result<()>,
    pub(super) command: fn(&Scene) -> Command,
    /// Whether it is run once before it is measured, on the same mount.
    pub(super) is_warm: bool,
    pub(super) succeeds: fn(Option<i32>) -> bool,
}

const PLAIN: Program = Program {
    name: "",
    about: "",
    package: ("cp", "coreutils"),
    prepare: |_| Ok(()),
    command: |_| Command::new("true"),
    is_warm: false,
    succeeds: |code| code == Some(0),
};

/// All of them.
pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "tar-x",
        about: "unpack the tree",
        package: ("tar", "tar"),
        command: |at| {
            command(
                "tar",
                &["xf"],
                &[&at.material.join("tree.tar"), Path::new("-C"), &at.dir],
            )
        },
        ..PLAIN
    },
    Program {
        name: "tar-c",
        about: "pack the tree",
        package: ("tar", "tar"),
        prepare: with_tree,
        // Not to /dev/null, for which tar reads no file.
        command: |at| {
            command(
                "tar",
                &["cf"],
                &[
                    &at.scratch.join("out.tar"),
                    Path::new("-C"),
                    &at.dir,
                    Path::new("tree"),
                ],
            )
        },
        ..PLAIN
    },
    Program {
        name: "cp-in",
        about: "cp -a of the tree to it",
        command: |at| command("cp", &["-a"], &[&at.tree(), &at.on("tree")]),
        ..PLAIN
    },
    Program {
        name: "cp-out",
        about: "cp -a of the tree from it",
        prepare: with_tree,
        command: |at| command("cp", &["-a"], &[&at.on("tree"), &at.scratch.join("tree")]),
        ..PLAIN
    },
    Program {
        name: "rsync",
        about: "rsync -a of the tree to it",
        package: ("rsync", "rsync"),
        command: |at| command("rsync", &["-a"], &[&at.tree(), &at.on("")]),
        ..PLAIN
    },
    Program {
        name: "git-clone",
        about: "clone a repository of the tree",
        package: ("git", "git"),
        command: |at| {
            command(
                "git",
                &["clone", "-q", "--no-hardlinks"],
                &[&at.material.join("repository"), &at.on("clone")],
            )
        },
        ..PLAIN
    },
    Program {
        name: "git-add",
        about: "git add of the tree",
        package: ("git", "git"),
        prepare: |at| {
            with_tree(at)?;
            succeed(&mut git(&at.on("tree"), &["init", "-q"])).map(|_| ())
        },
        command: |at| git(&at.on("tree"), &["add", "-A"]),
        ..PLAIN
    },
    Program {
        name: "git-commit",
        about: "git commit of the tree that was added",
        package: ("git", "git"),
        prepare: |at| {
            with_tree(at)?;
            succeed(&mut git(&at.on("tree"), &["init", "-q"]))?;
            succeed(&mut git(&at.on("tree"), &["add", "-A"])).map(|_| ())
        },
        command: |at| git(&at.on("tree"), &["commit", "-qm", "all"]),
        ..PLAIN
    },
    Program {
        name: "git-status",
        about: "git status of a clean tree, the first on this mount",
        package: ("git", "git"),
        prepare: with_clone,
        command: |at| git(&at.on("clone"), &["status"]),
        ..PLAIN
    },
    Program {
        name: "git-status-again",
        about: "git status once more",
        package: ("git", "git"),
        prepare: with_clone,
        command: |at| git(&at.on("clone"), &["status"]),
        is_warm: true,
        ..PLAIN
    },
    Program {
        name: "git-gc",
        about: "git gc of a repository with loose objects",
        package: ("git", "git"),
        prepare: |at| {
            with_tree(at)?;
            for words in [
                &["init", "-q"][..],
                &["add", "-A"],
                &["commit", "-qm", "all"],
            ] {
                succeed(&mut git(&at.on("tree"), words))?;
            }
            Ok(())
        },
        command: |at| git(&at.on("tree"), &["gc", "-q"]),
        ..PLAIN
    },
    Program {
        name: "grep",
        about: "grep -r, which reads every file",
        package: ("grep", "grep"),
        prepare: with_tree,
        command: |at| {
            command(
                "grep",
                &["-r", "a word that no file has"],
                &[&at.on("tree")],
            )
        },
        // What it looks for is nowhere.
        succeeds: |code| code == Some(1),
        ..PLAIN
    },
    Program {
        name: "find",
        about: "find by type, the first on this mount",
        package: ("find", "findutils"),
        prepare: with_tree,
        command: |at| {
            command(
                "find",
                &[],
                &[&at.on("tree"), Path::new("-type"), Path::new("p")],
            )
        },
        ..PLAIN
    },
    Program {
        name: "ls",
        about: "ls -lR, the first on this mount",
        prepare: with_tree,
        command: |at| command("ls", &["-lR"], &[&at.on("tree")]),
        ..PLAIN
    },
    Program {
        name: "ls-again",
        about: "ls -lR once more",
        prepare: with_tree,
        command: |at| command("ls", &["-lR"], &[&at.on("tree")]),
        is_warm: true,
        ..PLAIN
    },
    Program {
        name: "rm",
        about: "rm -rf of the tree",
        prepare: with_tree,
        command: |at| command("rm", &["-rf"], &[&at.on("tree")]),
        ..PLAIN
    },
    Program {
        name: "make",
        about: "compile and link a C program of 40 files",
        package: ("make", "build-essential"),
        prepare: with_sources,
        command: |at| command("make", &["-s", "-C"], &[&at.on("program")]),
        ..PLAIN
    },
    Program {
        name: "python-install",
        about: "unpack a package of modules, and compile them to bytecode",
        package: ("python3", "python3"),
        command: |at| {
            let mut sh = Command::new("sh");
            let script = "python3 -m zipfile -e \"$1\" \"$2\" && python3 -m compileall -q \"$2\"";
            sh.args(["-c", script, "sh"])
                .arg(at.material.join("package.zip"))
                .arg(at.on("site"));
            sh
        },
        ..PLAIN
    },
];

fn command(name: &str, words: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new(name);
    command.args(words).args(paths);
    command
}

/// git without anything of the user's or the machine's.
fn git(dir: &Path, words: &[&str]) -> Command {
    let mut git = Command::new("git");
    let me = [
        "user.name=work",
        "user.email=work@localhost",
        "commit.gpgsign=false",
        // Nothing in the background, beside what is measured.
        "gc.auto=0",
        "maintenance.auto=false",
        "safe.directory=*",
    ];
    for setting in me {
        git.args(["-c", setting]);
    }
    git.arg("-C").arg(dir).args(words);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    git
}

fn with_tree(at: &Scene) -> Result<()> {
    succeed(&mut command("cp", &["-a"], &[&at.tree(), &at.on("tree")])).map(|_| ())
}

/// A clean clone. Its index has device, inode and ctime of SOURCE, by which git would read every file again through a
/// mount: so git compares size and mtime alone, as it does on a copied tree. And the files are older than the index:
/// git reads those that are not.
fn with_clone(at: &Scene) -> Result<()> {
    let (from, clone) = (at.material.join("repository"), at.on("clone"));
    succeed(&mut command("git", &["clone", "-q"], &[&from, &clone]))?;
    for setting in [
        ["config", "core.checkStat", "minimal"],
        ["config", "core.trustctime", "false"],
    ] {
        succeed(&mut git(&clone, &setting))?;
    }
    let mut touch = Command::new("sh");
    let age = "git ls-files -z | xargs -0 touch --no-dereference --date='1 hour ago'";
    succeed(touch.args(["-c", age]).current_dir(&clone))?;
    succeed(&mut git(&clone, &["update-index", "-q", "--refresh"])).map(|_| ())
}

fn with_sources(at: &Scene) -> Result<()> {
    let dir = at.on("program");
    std::fs::create_dir(&dir)?;
    let mut objects = String::from("main.o");
    let mut main = String::new();
    let mut calls = String::new();
    for index in 0..SOURCES {
        let header = format!("int f{index}(int);\n");
        let body = format!(
            "#include \"f{index}.h\"\n#include <stdio.h>\nint f{index}(int x) {{ return x + {index}; }}\n"
        );
        std::fs::write(dir.join(format!("f{index}.h")), header)?;
        std::fs::write(dir.join(format!("f{index}.c")), body)?;
        objects += &format!(" f{index}.o");
        main += &format!("#include \"f{index}.h\"\n");
        calls += &format!(" + f{index}(1)");
    }
    std::fs::write(
        dir.join("main.c"),
        format!("{main}int main(void) {{ return (0{calls}) == 0; }}\n"),
    )?;
    let rules = format!("program: {objects}\n\tcc -o $@ $^\n%.o: %.c\n\tcc -c -o $@ $<\n");
    Ok(std::fs::write(dir.join("Makefile"), rules)?)
}

/// Packs `tree` in `material` for the programs that unpack.
pub(super) fn pack(material: &Path, files: u32) -> Result<()> {
    succeed(
        Command::new("tar")
            .args(["cf", "tree.tar", "tree"])
            .current_dir(material),
    )?;
    let repository = material.join("repository");
    std::fs::create_dir(&repository)?;
    trees::make_plain(&repository, files as usize)?;
    for words in [
        &["init", "-q"][..],
        &["add", "-A"],
        &["commit", "-qm", "all"],
        &["gc", "-q"],
    ] {
        succeed(&mut git(&repository, words)).context("git")?;
    }
    let modules = material.join("modules");
    for index in 0..files.min(1000) {
        let dir = modules.join(format!("package{}", index % 20));
        std::fs::create_dir_all(&dir)?;
        let text = format!("def f(x):\n    return x + {index}\n").repeat(20);
        std::fs::write(dir.join(format!("module{index}.py")), text)?;
    }
    let zip = ["-m", "zipfile", "-c", "package.zip", "modules/"];
    succeed(Command::new("python3").args(zip).current_dir(material)).map(|_| ())
}

/// Those with these names; all without any.
pub(super) fn select(wanted: &[String]) -> Result<Vec<&'static Program>> {
    if wanted.is_empty() {
        return Ok(PROGRAMS.iter().collect());
    }
    let find = |name: &String| {
        let found = PROGRAMS.iter().find(|program| program.name == name);
        found.ok_or_else(|| {
            let known = PROGRAMS.iter().map(|program| program.name);
            names::unknown("program", name, known, "`xtests work --list` names all")
        })
    };
    wanted.iter().map(find).collect()
}

/// What the chosen programs and the material need.
pub(super) fn packages(chosen: &[&Program]) -> Vec<(&'static str, &'static str)> {
    let always = [("git", "git"), ("python3", "python3")];
    let mut all: Vec<_> = chosen
        .iter()
        .map(|program| program.package)
        .chain(always)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// For `--list`.
pub(super) fn list() -> String {
    let lines = PROGRAMS
        .iter()
        .map(|program| format!("{:<18} {}\n", program.name, program.about));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn select_of_an_unknown_program_names_the_nearest() {
        let error = select(&["git-statu".to_owned()]).err().expect("unknown");
        assert!(error.to_string().contains("git-status"), "{error}");
        assert_eq!(select(&[]).expect("all").len(), PROGRAMS.len());
    }
}
