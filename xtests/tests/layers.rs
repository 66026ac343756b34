//! The layers of each crate, read from its source: no circle of modules, and no module that reaches back
//! up to its parent for a small value.
//!
//! Invariant: the graph of `crate::`, `super::`, `self::` and child paths of a crate, in `use` lines and in the
//! code, has no cycle but a parent with one private child of its own. Tests are not counted.
//!
//! Read as tokens rather than by the compiler, since the compiler accepts circles and names none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Path of a module from the crate's root; the root's is empty.
type Module = Vec<String>;

/// The modules of one crate root (`lib.rs` or `main.rs`).
#[derive(Default)]
struct Crate {
    files: BTreeMap<Module, TokenStream>,
    children: BTreeMap<Module, BTreeMap<String, Visibility>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Private,
    Public,
}

impl Crate {
    fn read(root: &Path) -> Result<Self> {
        let mut all = Self::default();
        let directory = root.parent().context("a root is in a directory")?;
        all.add(Module::new(), root, directory)?;
        Ok(all)
    }

    /// Adds the module in `file`, and its children, which are in `directory`.
    fn add(&mut self, module: Module, file: &Path, directory: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let tokens: TokenStream = text
            .parse()
            .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        let tokens = without_tests(tokens);
        let children = declared(&tokens);
        for name in children.keys() {
            let flat = directory.join(format!("{name}.rs"));
            let nested = directory.join(name).join("mod.rs");
            let path = if flat.is_file() { flat } else { nested };
            let mut child = module.clone();
            child.push(name.clone());
            self.add(child, &path, &directory.join(name))?;
        }
        self.files.insert(module.clone(), tokens);
        self.children.insert(module, children);
        Ok(())
    }

    /// The module that holds what `path` names, which is read from the crate's root on.
    fn holder(&self, path: &[String]) -> Module {
        let known = (0..=path.len()).rev().map(|length| &path[..length]);
        let found = known
            .into_iter()
            .find(|part| self.files.contains_key(*part));
        found.unwrap_or_default().to_vec()
    }

    /// The modules that `module` names.
    fn used_by(&self, module: &Module) -> BTreeSet<Module> {
        let mut paths = Vec::new();
        collect(
            &self.files[module],
            module,
            &self.children[module],
            &mut paths,
        );
        let mut used: BTreeSet<Module> = paths.iter().map(|path| self.holder(path)).collect();
        used.remove(module);
        used
    }

    /// Whether these two are a parent and a private child of its own.
    fn is_pair(&self, circle: &[&Module]) -> bool {
        let [a, b] = circle else { return false };
        let (parent, child) = if a.len() < b.len() { (a, b) } else { (b, a) };
        let Some((name, of)) = child.split_last() else {
            return false;
        };
        of == parent.as_slice() && self.children[*parent].get(name) == Some(&Visibility::Private)
    }

    /// The circles that are not allowed.
    fn circles(&self) -> Vec<Vec<String>> {
        let modules: Vec<&Module> = self.files.keys().collect();
        let number = |module: &Module| modules.iter().position(|known| *known == module);
        let mut graph = DiGraph::<&Module, ()>::new();
        let nodes: Vec<_> = modules
            .iter()
            .map(|module| graph.add_node(module))
            .collect();
        for (at, module) in modules.iter().enumerate() {
            for used in self.used_by(module).iter().filter_map(number) {
                graph.add_edge(nodes[at], nodes[used], ());
            }
        }
        let circles = tarjan_scc(&graph);
        let circles = circles.iter().filter(|circle| circle.len() > 1);
        let named =
            circles.map(|circle| circle.iter().map(|node| graph[*node]).collect::<Vec<_>>());
        named
            .filter(|circle| !self.is_pair(circle))
            .map(|circle| circle.into_iter().map(shown).collect())
            .collect()
    }
}

fn shown(module: &Module) -> String {
    if module.is_empty() {
        "the root".to_owned()
    } else {
        module.join("::")
    }
}

/// The tokens without items that are compiled for tests only.
fn without_tests(tokens: TokenStream) -> TokenStream {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_test = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#')
            && tokens
                .peek()
                .is_some_and(|next| next.to_string().replace(' ', "") == "[cfg(test)]");
        if !is_test {
            kept.push(token);
            continue;
        }
        let ends_item = |token: &TokenTree| match token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            TokenTree::Ident(_) | TokenTree::Literal(_) => false,
        };
        while tokens.next().is_some_and(|token| !ends_item(&token)) {}
    }
    kept.into_iter().collect()
}

/// The modules that these tokens declare in files of their own.
fn declared(tokens: &TokenStream) -> BTreeMap<String, Visibility> {
    let tokens: Vec<String> = tokens
        .clone()
        .into_iter()
        .map(|token| token.to_string())
        .collect();
    let mut found = BTreeMap::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let [keyword, name, end] = window else {
            continue;
        };
        if keyword != "mod" || end != ";" {
            continue;
        }
        let before = at.checked_sub(1).map(|before| tokens[before].as_str());
        let visibility = match before {
            Some("pub") => Visibility::Public,
            Some(scope) if scope.starts_with('(') => Visibility::Public,
            _ => Visibility::Private,
        };
        found.insert(name.clone(), visibility);
    }
    found
}

/// Adds the paths in `tokens` to `paths` that begin with a word that leads into this crate.
fn collect(
    tokens: &TokenStream,
    module: &Module,
    children: &BTreeMap<String, Visibility>,
    paths: &mut Vec<Module>,
) {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => collect(&group.stream(), module, children, paths),
            TokenTree::Ident(ident) if !follows_colons(&tokens, at) => {
                let start = match ident.to_string().as_str() {
                    "crate" => Module::new(),
                    "self" => module.clone(),
                    "super" => module[..module.len().saturating_sub(1)].to_vec(),
                    child if children.contains_key(child) => {
                        let mut start = module.clone();
                        start.push(child.to_owned());
                        start
                    }
                    _elsewhere => continue,
                };
                if has_colons(&tokens[at + 1..]) {
                    follow(&tokens[at + 1..], start, paths);
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

fn has_colons(tokens: &[TokenTree]) -> bool {
    is_colon(tokens.first()) && is_colon(tokens.get(1))
}

fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && has_colons(&tokens[at - 2..])
}

/// Follows `::name`, `::super` and `::{…}` from `path` on.
fn follow(mut rest: &[TokenTree], mut path: Module, paths: &mut Vec<Module>) {
    while has_colons(rest) {
        match rest.get(2) {
            Some(TokenTree::Ident(ident)) if ident == "super" => drop(path.pop()),
            Some(TokenTree::Ident(ident)) => path.push(ident.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| token.to_string() == ",";
                for part in inner.split(is_comma).filter(|part| !part.is_empty()) {
                    let mut path = path.clone();
                    match &part[0] {
                        TokenTree::Ident(ident) if ident == "self" => {}
                        first => path.push(first.to_string()),
                    }
                    follow(&part[1..], path, paths);
                }
                return;
            }
            _end => break,
        }
        rest = &rest[3..];
    }
    paths.push(path);
}

/// Every crate root of the workspace, with its name.
fn roots() -> Result<Vec<(String, PathBuf)>> {
    let top = xtests::support::install::root();
    let mut places = vec![top.join("xtests")];
    for entry in std::fs::read_dir(top.join("crates"))? {
        places.push(entry?.path());
    }
    let mut roots = Vec::new();
    for place in places {
        for file in ["lib.rs", "main.rs"] {
            let root = place.join("src").join(file);
            if root.is_file() {
                let shown = root.strip_prefix(&top)?.display().to_string();
                roots.push((shown, root));
            }
        }
    }
    ensure!(roots.len() > 5, "the crates are elsewhere: {roots:?}");
    Ok(roots)
}

#[test]
fn modules_of_every_crate_have_no_circle() -> Result<()> {
    let mut found = Vec::new();
    for (name, root) in roots()? {
        for circle in Crate::read(&root)?.circles() {
            found.push(format!("{name}: {}", circle.join(", ")));
        }
    }
    ensure!(found.is_empty(), "circles of modules\n{}", found.join("\n"));
    Ok(())
}

/// The kinds of path that the check must see, each as the only one that closes a circle.
#[test]
fn circles_by_every_kind_of_path_are_found() -> Result<()> {
    let back = [
        "use crate::a;",
        "use crate::{a::X};",
        "use super::a::{self, X};",
        "fn f() { crate::a::g(); }",
        "fn f() { log!(\"{}\", super::a::X); }",
        "impl T { fn f(&self) -> crate::a::X { crate::a::X } }",
    ];
    for way in back {
        let circles = of_two("use crate::b::Y;", way)?.circles();
        ensure!(
            circles == [["a", "b"]] || circles == [["b", "a"]],
            "{way}: {circles:?}"
        );
    }
    let harmless = [
        "use crate::c::a;",
        "#[cfg(test)]\nmod t { use crate::a; }",
        "// crate::a",
    ];
    for way in harmless {
        let circles = of_two("use crate::b::Y;", way)?.circles();
        ensure!(circles.is_empty(), "{way}: {circles:?}");
    }
    Ok(())
}

/// A crate with two modules.
fn of_two(a: &str, b: &str) -> Result<Crate> {
    let directory = tempfile::tempdir()?;
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);
    write("lib.rs", "mod a; mod b; mod c;")?;
    write("a.rs", a)?;
    write("b.rs", b)?;
    write("c.rs", "")?;
    Crate::read(&directory.path().join("lib.rs"))
}
