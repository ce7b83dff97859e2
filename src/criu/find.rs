// SPDX-License-Identifier: Apache-2.0
//! Where CRIU is: a fixed order of places, which works with an empty environment too. Knows paths; starts nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::{Context, Error, ErrorKind, Result};

/// The file in which an administrator may write `criu = "/path/to/criu"`.
const CONFIG: &str = "/etc/migrate/config.toml";
/// The environment variable that names a CRIU.
const VARIABLE: &str = "MIGRATE_CRIU";
/// Where `scripts/setup` puts a CRIU of our own; a build may say otherwise.
const PREFIX: &str = match option_env!("MIGRATE_CRIU_PREFIX") {
    Some(prefix) => prefix,
    None => "/opt/migrate-criu",
};
/// Searched after `PATH`, and given to CRIU, which starts `iptables-restore` and `tar` by name.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An executable CRIU that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    path: PathBuf,
}

impl Criu {
    /// Finds CRIU: `explicit` (`--criu`), `$MIGRATE_CRIU`, `criu = "…"` in `/etc/migrate/config.toml`, the prefix of
    /// `scripts/setup`, `PATH`, and a default `PATH`. What one of the first three names must be there: a wish
    /// that cannot be met is an error, not a reason to look further.
    ///
    /// # Errors
    /// `CriuUnusable` with the places that were looked at; `InvalidInput` for a configuration file that cannot be read.
    pub fn find(explicit: Option<&Path>) -> Result<Self> {
        Search {
            explicit: explicit.map(Path::to_path_buf),
            variable: std::env::var_os(VARIABLE),
            config: PathBuf::from(CONFIG),
            prefix: PathBuf::from(PREFIX),
            path: std::env::var_os("PATH"),
            default_path: DEFAULT_PATH,
        }
        .find()
    }

    #[cfg(test)]
    pub(super) fn for_test(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The path of the program.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Where CRIU looks for the programs that it starts: our own `PATH`, which a container engine that calls us may not have
/// set, and after it the usual places.
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(DEFAULT_PATH);
    path
}

/// CRIU takes foreign processes apart, and makes mounts and namespaces on the way.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`] for a caller who is not root.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::PermissionDenied,
        "checkpoint and restore need root, whoever runs the container",
    )
    .with_hint("a container of another user's state root is found with --root"))
}

/// Everything that the search depends on.
#[derive(Debug, Clone)]
struct Search {
    explicit: Option<PathBuf>,
    variable: Option<OsString>,
    config: PathBuf,
    prefix: PathBuf,
    path: Option<OsString>,
    default_path: &'static str,
}

impl Search {
    fn find(&self) -> Result<Criu> {
        if let Some(path) = &self.explicit {
            return named(path, "--criu");
        }
        if let Some(path) = self.variable.as_ref().filter(|value| !value.is_empty()) {
            return named(Path::new(path), "$MIGRATE_CRIU");
        }
        if let Some(path) = configured(&self.config)? {
            return named(&path, &self.config.display().to_string());
        }
        let ours = self.prefix.join("criu");
        let path = self.path.iter().flat_map(std::env::split_paths);
        let searched = path.chain(std::env::split_paths(self.default_path)).filter(|dir| dir.is_absolute());
        std::iter::once(ours.clone())
            .chain(searched.map(|dir| dir.join("criu")))
            .find(|candidate| executable(candidate).is_ok())
            .map(|path| Criu { path })
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::CriuUnusable,
                    format!(
                        "criu was not found: --criu, ${VARIABLE} and {} name none, and it is neither at {} nor in PATH \
                         or {}",
                        self.config.display(),
                        ours.display(),
                        self.default_path
                    ),
                )
                .with_hint("run scripts/setup, or pass --criu")
            })
    }
}

fn named(path: &Path, by: &str) -> Result<Criu> {
    executable(path)
        .context_kind(ErrorKind::CriuUnusable, || format!("use {} as criu, as {by} says", path.display()))
        .map_err(|e| e.with_hint("run scripts/setup, or pass --criu"))?;
    // Absolute, so that a later change of the working directory cannot make it another program.
    let path = std::path::absolute(path).context(|| format!("resolve {}", path.display()))?;
    Ok(Criu { path })
}

fn executable(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(std::io::Error::from_raw_os_error(libc::EISDIR));
    }
    Ok(access(path, AccessFlags::X_OK)?)
}

/// The path that the configuration file names, if there is such a file and it names one.
fn configured(file: &Path) -> Result<Option<PathBuf>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context(|| format!("read {}", file.display())),
    };
    parse(&text).map_err(|line| {
        Error::new(
            ErrorKind::InvalidInput,
            format!(
                "{} line {line}: criu must be a quoted path, as in criu = \"/usr/sbin/criu\"",
                file.display()
            ),
        )
    })
}

/// Reads the one key that is ours from TOML: `criu` at the top level, a basic or a literal string. `Err` is the line
/// number of an unusable value. Other keys and tables are other readers' business.
fn parse(text: &str) -> std::result::Result<Option<PathBuf>, usize> {
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.starts_with('[') {
            break;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        if key.trim().trim_matches('"') != "criu" {
            continue;
        }
        return string(value.trim())
            .filter(|path| !path.is_empty())
            .map(|path| Some(path.into()))
            .ok_or(number);
    }
    Ok(None)
}

/// A one-line TOML string that is followed by nothing but a comment.
fn string(value: &str) -> Option<String> {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut text = String::new();
    let mut rest = value.get(1..)?.chars();
    loop {
        match rest.next()? {
            c if c == quote => break,
            '\\' if quote == '"' => match rest.next()? {
                c @ ('"' | '\\') => text.push(c),
                _ => return None,
            },
            c => text.push(c),
        }
    }
    let after = rest.as_str().trim_start();
    (after.is_empty() || after.starts_with('#')).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, mode: u32) -> PathBuf {
        std::fs::create_dir_all(dir).expect("make the directory");
        let path = dir.join("criu");
        std::fs::write(&path, "#!/bin/sh\n").expect("write the program");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set its mode");
        path
    }

    fn nothing_in(dir: &Path) -> Search {
        Search {
            explicit: None,
            variable: None,
            config: dir.join("config.toml"),
            prefix: dir.join("prefix"),
            path: None,
            default_path: "/nonexistent/sbin:/nonexistent/bin",
        }
    }

    #[test]
    fn each_place_wins_over_the_ones_after_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        let mut search = nothing_in(root);
        let found = |search: &Search| search.find().map(|criu| criu.path).map_err(|e| e.kind());
        assert_eq!(found(&search), Err(ErrorKind::CriuUnusable));

        let in_path = program(&root.join("bin"), 0o755);
        search.path = Some(format!("relative:/nonexistent:{}", root.join("bin").display()).into());
        assert_eq!(found(&search), Ok(in_path));

        // A prefix that is there but cannot be run was not asked for by anybody: the search goes on.
        program(&search.prefix, 0o644);
        assert_eq!(found(&search), Ok(root.join("bin/criu")));
        let ours = program(&search.prefix, 0o755);
        assert_eq!(found(&search), Ok(ours));

        let configured = program(&root.join("configured"), 0o755);
        std::fs::write(&search.config, format!("criu = \"{}\" # ours\n", configured.display()))
            .expect("write");
        assert_eq!(found(&search), Ok(configured));

        search.variable = Some(OsString::new());
        assert_eq!(found(&search), Ok(root.join("configured/criu")));
        let variable = program(&root.join("variable"), 0o755);
        search.variable = Some(variable.clone().into());
        assert_eq!(found(&search), Ok(variable));

        let explicit = program(&root.join("explicit"), 0o755);
        search.explicit = Some(explicit.clone());
        assert_eq!(found(&search), Ok(explicit));
    }

    #[test]
    fn the_default_path_serves_an_empty_environment() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = program(&dir.path().join("sbin"), 0o755);
        let mut search = nothing_in(dir.path());
        search.default_path = Box::leak(dir.path().join("sbin").display().to_string().into_boxed_str());
        assert_eq!(search.find().map(|c| c.path).map_err(|e| e.chain()), Ok(path));
    }

    #[test]
    fn a_wish_that_cannot_be_met_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        let mut search = nothing_in(root);
        program(&search.prefix, 0o755);
        for wish in [root.join("missing"), program(&root.join("plain"), 0o644), root.to_path_buf()] {
            search.explicit = Some(wish.clone());
            let error = search.find().expect_err("it cannot be run");
            assert_eq!(error.kind(), ErrorKind::CriuUnusable);
            assert!(error.to_string().contains(&wish.display().to_string()), "{error}");
            assert!(error.to_string().contains("--criu"), "{error}");
            assert_eq!(error.hint(), Some("run scripts/setup, or pass --criu"));
        }
        search.explicit = None;
        search.variable = Some("/nonexistent/criu".into());
        assert!(search.find().expect_err("missing").to_string().contains("$MIGRATE_CRIU"));
    }

    #[test]
    fn nothing_found_says_where_it_was_looked_for() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = nothing_in(dir.path()).find().expect_err("there is none");
        for place in ["--criu", "$MIGRATE_CRIU", "config.toml", "prefix/criu", "PATH", "/nonexistent/sbin"] {
            assert!(error.to_string().contains(place), "{place} in {error}");
        }
        assert!(error.hint().is_some());
    }

    #[test]
    fn the_one_key_of_the_configuration() {
        let table: &[(&str, std::result::Result<Option<&str>, usize>)] = &[
            ("", Ok(None)),
            ("# criu = \"/x\"\n", Ok(None)),
            ("root = \"/r\"\ncriu = \"/a b/criu\"\n", Ok(Some("/a b/criu"))),
            ("  criu='/lit\\eral' # why", Ok(Some("/lit\\eral"))),
            ("\"criu\" = \"/q\"", Ok(Some("/q"))),
            ("criu=\"/a\\\"b\\\\c\"", Ok(Some("/a\"b\\c"))),
            ("[other]\ncriu = \"/x\"", Ok(None)),
            ("criu-log = \"/x\"", Ok(None)),
            ("\n\ncriu = /unquoted", Err(3)),
            ("criu = \"/open", Err(1)),
            ("criu = \"/a\" b", Err(1)),
            ("criu = \"\"", Err(1)),
            ("criu = ", Err(1)),
            ("criu = \"\\u0041\"", Err(1)),
        ];
        for (text, expected) in table {
            let found = parse(text);
            let found =
                found.as_ref().map(|path| path.as_deref().and_then(Path::to_str)).map_err(|line| *line);
            assert_eq!(found, *expected, "{text}");
        }
    }
}
