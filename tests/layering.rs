// SPDX-License-Identifier: Apache-2.0
//! The direction of dependencies, read off the source: which layer may use which, where each third-party crate lives,
//! and where `unsafe` and `target_arch` may stand. ARCHITECTURE.md shows the same tables to people.
//!
//! The source is taken apart into tokens, so that comments and strings do not count, and grouped and nested imports and
//! `super::super` do. Code under `#[cfg(test)]` may use any layer, but no `unsafe` and no foreign crate.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and what it may use, besides itself and the crate's error items.
const LAYERS: [(&str, &[&str]); 15] = [
    ("sys", &[]),
    ("spec", &[]),
    ("cgroup", &["sys", "spec"]),
    ("criu", &["sys"]),
    ("pages", &["criu", "sys"]),
    ("archive", &["sys"]),
    ("registry", &["archive", "sys"]),
    ("engine", &["sys", "spec", "cgroup"]),
    ("diagnose", &["criu", "sys"]),
    ("check", &["engine", "criu", "pages", "archive", "diagnose", "cgroup", "spec", "sys"]),
    ("checkpoint", &["check", "engine", "criu", "pages", "archive", "diagnose", "spec", "cgroup", "sys"]),
    ("restore", &["engine", "criu", "pages", "archive", "diagnose", "spec", "cgroup", "sys"]),
    ("inspect", &["archive", "criu", "sys"]),
    (
        "migration",
        &[
            "checkpoint",
            "restore",
            "pages",
            "check",
            "archive",
            "criu",
            "engine",
            "cgroup",
            "spec",
            "diagnose",
            "sys",
        ],
    ),
    // The public API, which is all of these.
    (
        "cli",
        &[
            "sys",
            "spec",
            "cgroup",
            "criu",
            "pages",
            "archive",
            "engine",
            "check",
            "diagnose",
            "checkpoint",
            "restore",
            "inspect",
            "migration",
            "registry",
        ],
    ),
];

/// What everybody may use.
const ERROR_ITEMS: [&str; 5] = ["error", "Context", "Error", "ErrorKind", "Result"];

/// The layers that speak to the kernel. `error` reads error numbers.
const LOW: &[&str] = &[
    "error",
    "sys",
    "cgroup",
    "criu",
    "pages",
    "archive",
    "registry",
    "engine",
    "check",
    "checkpoint",
    "restore",
    "inspect",
    "migration",
];

/// Each third-party crate with one home, and that home. Others (serde, tracing, thiserror) are at home everywhere.
const HOMES: [(&str, &[&str]); 24] = [
    ("nix", LOW),
    ("libc", LOW),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("tracing_subscriber", &["cli"]),
    ("tar", &["archive"]),
    ("zstd", &["archive"]),
    ("flate2", &["archive"]),
    ("sha2", &["archive", "registry", "migration"]),
    ("rustls", &["registry", "migration"]),
    ("httparse", &["registry"]),
    ("base64", &["archive", "registry", "migration"]),
    ("blake2", &["archive"]),
    ("bzip2", &["archive"]),
    ("lzma_rust2", &["archive"]),
    ("age", &["archive"]),
    ("ssh_key", &["archive"]),
    ("signature", &["archive"]),
    ("xattr", &["archive"]),
    ("rust_criu", &["criu"]),
    ("protobuf", &["criu"]),
    ("caps", &["engine"]),
    ("libseccomp", &["engine"]),
    ("oci_spec", &["spec"]),
];

#[test]
fn the_source_keeps_to_the_layers() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&source);
    assert!(files.len() > 50, "only {} files found", files.len());
    let tests = test_files(&source, &files);
    let mut found = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).expect("the source is readable");
        let name = path.strip_prefix(&source).expect("it lies beneath src").display().to_string();
        let scope = if tests.contains(path) { Scope::TestFile } else { Scope::Code };
        found.extend(violations(&name, &text, scope).into_iter().map(|complaint| (name.clone(), complaint)));
    }
    assert!(found.is_empty(), "violations of the layers: {found:#?}");
}

#[test]
fn each_layer_of_the_table_is_there_and_no_other() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("readable");
    let tokens = tokens(&lib);
    let modules: Vec<&str> =
        tokens.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].as_str()).collect();
    for (layer, uses) in LAYERS {
        assert!(modules.contains(&layer), "there is no layer {layer}");
        assert!(uses.iter().all(|used| LAYERS.iter().any(|(name, _)| name == used)), "{layer} uses {uses:?}");
    }
    for module in modules {
        assert!(
            module == "error" || LAYERS.iter().any(|(layer, _)| *layer == module),
            "{module} has no layer"
        );
    }
}

/// Whether a file is compiled for tests only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Code,
    TestFile,
}

// --- what is wrong ---------------------------------------------------------------------------------------------------

/// What a file, named relative to `src`, does that its layer must not.
fn violations(file: &str, text: &str, scope: Scope) -> Vec<String> {
    let module = module_path(file);
    let layer = module.first().map_or("", String::as_str);
    let all = tokens(text);
    let code = if scope == Scope::TestFile { Vec::new() } else { without_tests(&all) };
    let mut found = Vec::new();
    if !text.starts_with("// SPDX-License-Identifier: Apache-2.0\n//! ") {
        found.push("does not begin with its licence and what it owns".to_owned());
    }
    if let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) {
        for used in layers_used(&code, &module) {
            let ours = used == layer || ERROR_ITEMS.contains(&used.as_str());
            if !ours && !allowed.contains(&used.as_str()) {
                found.push(format!("uses crate::{used}"));
            }
        }
    } else if layer == "error" && layers_used(&code, &module).iter().any(|used| used != "error") {
        found.push("error uses a layer".to_owned());
    }
    for (name, homes) in HOMES {
        if !homes.contains(&layer) && uses_crate(&all, name) {
            found.push(format!("uses the crate {name}"));
        }
    }
    let says = |word: &str| all.iter().any(|token| token == word);
    if layer != "sys" && (says("unsafe") || says("unsafe_code")) {
        found.push("has unsafe code".to_owned());
    }
    if !file.starts_with("sys/arch/") && says("target_arch") {
        found.push("depends on the processor".to_owned());
    }
    found
}

/// `engine/rootfs/mod.rs` is the module `engine::rootfs`.
fn module_path(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut path: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// The first names of all paths that lead through the crate's root, by `crate::` or by enough `super::`.
fn layers_used(tokens: &[String], module: &[String]) -> Vec<String> {
    let mut used: Vec<String> = Vec::new();
    let mut blocks: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => {
                let inline = at >= 2 && tokens[at - 2] == "mod";
                blocks.push(inline.then(|| tokens[at - 1].clone()));
            }
            "}" => drop(blocks.pop()),
            "crate" | "super" if !follows_path(tokens, at) => {
                let here = module.iter().cloned().chain(blocks.iter().flatten().cloned()).collect();
                let mut paths = Vec::new();
                tree(tokens, &mut at, here, &mut paths);
                used.extend(paths.into_iter().map(|path| path.into_iter().next().unwrap_or_default()));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    used.retain(|name| !name.is_empty());
    used.sort();
    used.dedup();
    used
}

/// Whether this token is a later part of a path.
fn follows_path(tokens: &[String], at: usize) -> bool {
    at >= 1 && tokens[at - 1] == "::"
}

/// Reads one path, with everything grouped behind it, as paths from the crate's root. `base` is where a name of it is
/// looked up. A path that renames or globs the root is reported as `*`, which no layer may use.
fn tree(tokens: &[String], at: &mut usize, base: Vec<String>, paths: &mut Vec<Vec<String>>) {
    let get = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut base = base;
    loop {
        match get(*at) {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            "{" => {
                *at += 1;
                while !matches!(get(*at), "}" | "") {
                    let before = *at;
                    tree(tokens, at, base.clone(), paths);
                    if get(*at) == "," || *at == before {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            name => base.push(name.to_owned()),
        }
        *at += 1;
        if get(*at) != "::" {
            break;
        }
        *at += 1;
    }
    if get(*at) == "as" {
        *at += 2;
        if base.is_empty() {
            base.push("*".to_owned());
        }
    }
    paths.push(base);
}

/// Whether a path begins with the crate's name, or an import names it.
fn uses_crate(tokens: &[String], name: &str) -> bool {
    let get = |at: usize| tokens.get(at).map_or("", String::as_str);
    (0..tokens.len()).filter(|&at| tokens[at] == name).any(|at| {
        let before = if at >= 1 { get(at - 1) } else { "" };
        // `a::nix::B` is a module of ours; `::nix::B` is the crate.
        let inner = before == "::" && at >= 2 && (is_name(get(at - 2)) || get(at - 2) == ">");
        let field = before == ".";
        let imported = matches!(before, "use" | "crate");
        !inner && !field && (get(at + 1) == "::" || imported)
    })
}

fn is_name(token: &str) -> bool {
    !matches!(token, "use" | "return" | "in" | "as" | "mut" | "ref")
        && token.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
}

/// The tokens that are compiled without `cfg(test)`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = end_of_item(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn is_test_attribute(tokens: &[String]) -> bool {
    let expected = ["#", "[", "cfg", "(", "test", ")", "]"];
    tokens.len() >= expected.len() && tokens.iter().zip(expected).all(|(token, word)| token == word)
}

/// The end of the item that begins with attributes at `at`: its block, or its semicolon.
fn end_of_item(tokens: &[String], at: usize) -> usize {
    let (mut depth, mut end) = (0_usize, at);
    while end < tokens.len() {
        match tokens[end].as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return end + 1;
                }
            }
            ";" if depth == 0 => return end + 1,
            _ => {}
        }
        end += 1;
    }
    end
}

// --- files and tokens ------------------------------------------------------------------------------------------------

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the source is there") {
        let path = entry.expect("the source can be listed").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The files that a `#[cfg(test)] mod name;` names.
fn test_files(source: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in files {
        let tokens = tokens(&fs::read_to_string(path).expect("the source is readable"));
        let name = path.strip_prefix(source).expect("beneath src").display().to_string();
        let directory = module_path(&name).iter().fold(source.to_owned(), |path, part| path.join(part));
        for at in (0..tokens.len()).filter(|&at| is_test_attribute(&tokens[at..])) {
            let item = &tokens[at..end_of_item(&tokens, at)];
            if let [.., keyword, module, end] = item
                && keyword == "mod"
                && end == ";"
            {
                let stem = directory.join(module);
                found.extend([stem.with_extension("rs"), stem.join("mod.rs")]);
            }
        }
    }
    found.retain(|path| files.contains(path));
    found
}

/// Names, `::`, and single characters. Comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if c == '/' && get(at + 1) == '/' {
            at = (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len());
        } else if c == '/' && get(at + 1) == '*' {
            at = end_of_comment(&chars, at);
        } else if let Some(end) = end_of_raw_string(&chars, at) {
            at = end;
        } else if c == '"' {
            at = end_of_quoted(&chars, at, '"');
        } else if c == '\'' {
            // 'a' and '\n' are characters, 'a without an end is a lifetime.
            let is_char = get(at + 1) == '\\' || get(at + 2) == '\'';
            at = if is_char { end_of_quoted(&chars, at, '\'') } else { at + 1 };
        } else if c.is_alphanumeric() || c == '_' {
            let end = (at..chars.len()).find(|&i| !(chars[i].is_alphanumeric() || chars[i] == '_'));
            let end = end.unwrap_or(chars.len());
            let name: String = chars[at..end].iter().collect();
            // b"…" and c"…" are strings.
            if !(get(end) == '"' && matches!(name.as_str(), "b" | "c")) {
                found.push(name);
            }
            at = end;
        } else if c == ':' && get(at + 1) == ':' {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            at += 1;
        }
    }
    found
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn end_of_quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` or `cr"…"`, if one begins here.
fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    if start > 0 && is_name(chars[start - 1]) {
        return None;
    }
    let mut at = start;
    if matches!(chars[at], 'b' | 'c') {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| {
        chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    let end = (at + 1..chars.len()).find(|&at| closes(at)).unwrap_or(chars.len());
    Some(end + 1 + hashes)
}

// --- the test's own tests --------------------------------------------------------------------------------------------

mod finds {
    use super::{Scope, violations};

    fn in_file(file: &str, body: &str) -> Vec<String> {
        violations(file, &format!("// SPDX-License-Identifier: Apache-2.0\n//! A test.\n{body}"), Scope::Code)
    }

    #[test]
    fn a_layer_above_in_every_spelling() {
        let table = [
            ("criu/client.rs", "use crate::engine::Container;", "uses crate::engine"),
            ("criu/client.rs", "use crate::{Context, engine::Container};", "uses crate::engine"),
            ("criu/client.rs", "use crate::{sys::{fd, mount}, engine};", "uses crate::engine"),
            ("criu/client.rs", "fn f() { crate::engine::go(); }", "uses crate::engine"),
            ("criu/client.rs", "use super::super::engine;", "uses crate::engine"),
            ("criu/mod.rs", "use super::engine;", "uses crate::engine"),
            ("criu/client.rs", "use super::{find, super::engine};", "uses crate::engine"),
            ("criu/client.rs", "mod inner { use super::super::super::engine; }", "uses crate::engine"),
            ("criu/client.rs", "use crate::*;", "uses crate::*"),
            ("criu/client.rs", "use crate as migrate;", "uses crate::*"),
            ("criu/client.rs", "use crate::{self as migrate};", "uses crate::*"),
            ("criu/client.rs", "use crate::nowhere::X;", "uses crate::nowhere"),
            ("criu/client.rs", "#[cfg(test)] mod tests { } use crate::engine::X;", "uses crate::engine"),
            ("engine/rootfs/plan.rs", "use super::super::super::archive::X;", "uses crate::archive"),
            ("checkpoint/mod.rs", "use crate::restore::restore;", "uses crate::restore"),
            ("sys/fd.rs", "use crate::spec::oci;", "uses crate::spec"),
        ];
        for (file, body, complaint) in table {
            assert_eq!(in_file(file, body), [complaint], "{body}");
        }
    }

    #[test]
    fn a_crate_away_from_home() {
        let table = [
            ("engine/x.rs", "use clap::Parser;", "uses the crate clap"),
            ("engine/x.rs", "use ::clap::Parser;", "uses the crate clap"),
            ("engine/x.rs", "use {clap::Parser, std::fs};", "uses the crate clap"),
            ("engine/x.rs", "use clap as c;", "uses the crate clap"),
            ("engine/x.rs", "extern crate clap;", "uses the crate clap"),
            ("engine/x.rs", "#[derive(clap::Args)] struct A;", "uses the crate clap"),
            ("engine/x.rs", "#[cfg(test)] mod tests { use clap::Parser; }", "uses the crate clap"),
            ("cli/x.rs", "fn f() -> libc::c_int { 0 }", "uses the crate libc"),
            ("archive/x.rs", "use rust_criu::rust_criu_protobuf::rpc;", "uses the crate rust_criu"),
            ("criu/x.rs", "fn f(set: &caps::CapsHashSet) {}", "uses the crate caps"),
        ];
        for (file, body, complaint) in table {
            assert_eq!(in_file(file, body), [complaint], "{body}");
        }
    }

    #[test]
    fn what_belongs_into_one_place() {
        for (body, complaint) in [
            ("fn f() { unsafe { g() } }", "has unsafe code"),
            ("#![allow(unsafe_code)]", "has unsafe code"),
            ("#[cfg(test)] mod tests { unsafe fn f() {} }", "has unsafe code"),
            ("#[cfg(target_arch = \"x86_64\")] fn f() {}", "depends on the processor"),
        ] {
            assert_eq!(in_file("engine/x.rs", body), [complaint], "{body}");
        }
        assert!(in_file("sys/x.rs", "fn f() { unsafe { g() } }").is_empty());
        assert!(in_file("sys/arch/x.rs", "#[cfg(target_arch = \"x86_64\")] fn f() {}").is_empty());
        assert_eq!(violations("sys/x.rs", "fn f() {}", Scope::Code).len(), 1, "no header");
    }

    #[test]
    fn nothing_where_nothing_is() {
        let table = [
            ("criu/client.rs", "use crate::{Context, Error, ErrorKind, Result};"),
            ("criu/client.rs", "use crate::sys::{self, fd::above_stdio};"),
            ("criu/client.rs", "use super::find::Criu; pub(in crate::criu) fn f() {} pub(crate) fn g() {}"),
            ("criu/client.rs", "// use crate::engine\n/* crate::engine /* unsafe */ */"),
            ("criu/client.rs", "/// [`crate::engine`]\nconst A: &str = \"crate::engine\";"),
            ("criu/client.rs", "const A: &str = r#\"a \" unsafe crate::engine\"#; const B: char = '\"';"),
            ("criu/client.rs", "const A: &[u8] = b\"unsafe\"; fn f<'a>(x: &'a str) {}"),
            (
                "criu/client.rs",
                "#[cfg(test)]\n#[allow(dead_code)]\nmod tests { use crate::engine::X; mod a {} }",
            ),
            (
                "engine/rootfs/plan.rs",
                "use super::super::{id, state}; mod inner { use super::super::mounts; }",
            ),
            ("engine/x.rs", "use crate::sys::caps::X; fn f(t: &T) { t.clap.go(); let tar = 1; }"),
            ("restore/mod.rs", "use crate::archive::Archive; use nix::unistd::Pid;"),
            ("cli/mod.rs", "use crate::checkpoint::checkpoint; use clap::Parser;"),
            ("lib.rs", "pub mod archive; pub use error::{Context, Error};"),
        ];
        for (file, body) in table {
            assert_eq!(in_file(file, body), [""; 0], "{body}");
        }
    }
}
