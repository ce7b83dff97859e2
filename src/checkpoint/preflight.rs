// SPDX-License-Identifier: Apache-2.0
//! Refuses what CRIU would refuse, before anything is stopped and with everything that is in the way named at once. What CRIU
//! is told by its own files of options counts as given; what only it can judge is left to it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::CheckpointOptions;
use crate::check::{ContainerFacts, Finding, Given, Limits, judge_container, refuse};
use crate::criu::{CONFIG_ANNOTATION, Kernel, TcpConnections, Version, check_inet_sockets, config_file};
use crate::engine::Container;
use crate::spec::Config;
use crate::{Context, Result};

/// What CRIU reads besides the file that it is given (criu(8)).
const CRIU_DEFAULT: &str = "/etc/criu/default.conf";
/// More than this is no file of options, in bytes.
const LARGEST: u64 = 64 << 10;

/// Looks whether a checkpoint with these options is possible, without one.
///
/// # Errors
/// As [`super::checkpoint`] has before anything is stopped, as far as that can be told.
pub fn dumpable(container: &Container, options: &CheckpointOptions) -> Result<()> {
    let config = container.config()?;
    super::namespaces::require_restorable(&config)?;
    if options.no_check { Ok(()) } else { require_dumpable(container, &config, options) }
}

/// Looks at the container.
///
/// # Errors
/// [`crate::ErrorKind::Undumpable`], naming all that is in the way.
pub(super) fn require_dumpable(
    container: &Container,
    config: &Config,
    options: &CheckpointOptions,
) -> Result<()> {
    let mut given = Given {
        tcp: options.tcp != TcpConnections::Refuse,
        tcp_skip_in_flight: options.tcp_skip_in_flight,
        ext_unix_sk: options.ext_unix_sk,
        file_locks: options.file_locks,
        shell_job: options.shell_job,
        link_remap: options.link_remap,
        ghost_limit: options.ghost_limit.map(u64::from),
        ..Given::default()
    };
    // What else is outside, the caller knows better.
    if !options.external.is_empty() {
        return Ok(());
    }
    let annotations = config.spec.annotations().as_ref();
    let own = config_file(annotations.and_then(|a| a.get(CONFIG_ANNOTATION)).map(String::as_str));
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".criu/default.conf"));
    for text in own.into_iter().chain(home).chain([PathBuf::from(CRIU_DEFAULT)]).filter_map(read) {
        if read_options(&text, &mut given) == Known::NotAll {
            return Ok(());
        }
    }
    let Some(first) = look(container, config, &given) else { return Ok(()) };
    if first.is_empty() {
        return Ok(());
    }
    // The processes run meanwhile: a socket may find its other end, a lock may be let go. What is gone at a second look was
    // of that moment, and CRIU has moments of its own.
    let second = look(container, config, &given).unwrap_or_default();
    let is_there = |finding: &Finding| first.contains(finding);
    refuse(second.into_iter().filter(is_there).collect(), &given)
}

/// Asks whether there are network sockets only where this CRIU could not dump them: to list them takes the kernel some ten
/// milliseconds, even if there is none.
///
/// # Errors
/// [`crate::ErrorKind::CriuUnusable`]; they cannot be looked at.
pub(super) fn require_sockets_dumpable(
    version: Version,
    kernel: Option<Kernel>,
    has_sockets: impl FnOnce() -> std::io::Result<bool>,
) -> Result<()> {
    match check_inet_sockets(version, kernel) {
        Err(too_old) if has_sockets().context(|| "read the container's sockets")? => Err(too_old),
        _ => Ok(()),
    }
}

/// What is in the way now; nothing where it cannot be told: what fails there is for those to say who go on, a container that
/// has ended among it.
fn look(container: &Container, config: &Config, given: &Given) -> Option<Vec<Finding>> {
    let begin = Instant::now();
    let facts = ContainerFacts::gather(container, config, Limits::default());
    let facts =
        facts.inspect_err(|error| tracing::debug!(error = error.chain(), "look at the container")).ok()?;
    let mut found = judge_container(&facts, None);
    found.retain(|finding| finding.is_in_the_way_of(given));
    tracing::debug!(found = found.len(), took = ?begin.elapsed(), "looked for what criu cannot carry");
    Some(found)
}

/// A file that is missing or cannot be read is CRIU's to complain of.
fn read(path: PathBuf) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether all that a file says is known to change nothing but what is written down.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    All,
    NotAll,
}

/// Takes over what a file of options says.
fn read_options(text: &str, given: &mut Given) -> Known {
    let mut known = Known::All;
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        let (name, value) =
            line.split_once(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or((line, ""));
        match name.trim_start_matches('-') {
            "tcp-established" | "tcp-close" => given.tcp = true,
            "skip-in-flight" => given.tcp_skip_in_flight = true,
            "ext-unix-sk" => given.ext_unix_sk = true,
            "file-locks" => given.file_locks = true,
            "shell-job" => given.shell_job = true,
            "link-remap" => given.link_remap = true,
            "ghost-limit" => given.ghost_limit = size(value),
            // Plugins, mounts and resources from elsewhere: CRIU may do more than is known here.
            "external"
            | "enable-fs"
            | "skip-mnt"
            | "libdir"
            | "L"
            | "ext-mount-map"
            | "enable-external-sharing"
            | "enable-external-masters"
            | "force-irmap"
            | "irmap-scan-path"
            | "skip-file-rwx-check" => {
                known = Known::NotAll;
            }
            _ => {}
        }
    }
    known
}

/// A size as CRIU reads it: with `K`, `M` or `G` behind it. One that cannot be read is CRIU's to complain of.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].chars().next().map(|unit| unit.to_ascii_uppercase()) {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        _ => 0,
    };
    digits.parse::<u64>().map_or(Some(u64::MAX), |number| Some(number.saturating_mul(1 << shift)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_looked_for_only_where_they_would_be_in_the_way() {
        let kernel = Kernel::parse("6.18.1");
        let unasked = || -> std::io::Result<bool> { panic!("this takes long") };
        require_sockets_dumpable(Version::new(4, 2, 1), kernel, unasked).expect("it dumps them");
        let old = Version::new(4, 1, 1);
        require_sockets_dumpable(old, kernel, || Ok(false)).expect("there is none");
        let error = require_sockets_dumpable(old, kernel, || Ok(true)).expect_err("it cannot");
        assert_eq!(error.kind(), crate::ErrorKind::CriuUnusable);
        let gone = || Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        let error = require_sockets_dumpable(old, kernel, gone).expect_err("they cannot be seen");
        assert!(error.to_string().contains("the container's sockets"), "{error}");
    }

    #[test]
    fn criu_s_own_files_count_as_flags() {
        let read = |text| {
            let mut given = Given::default();
            (read_options(text, &mut given), given)
        };
        assert_eq!(read(""), (Known::All, Given::default()));
        assert_eq!(read("# tcp-established\nlog-level 4\n"), (Known::All, Given::default()));
        let (known, given) = read("tcp-established\n--file-locks # both\nghost-limit 2M\n\tlink-remap\n");
        assert_eq!(known, Known::All);
        assert!(given.tcp && given.file_locks && given.link_remap && !given.shell_job);
        assert_eq!(given.ghost_limit, Some(2 << 20));
        assert_eq!(read("external mnt[/x]:x\n").0, Known::NotAll);
        assert_eq!(read("ghost-limit=7").1.ghost_limit, Some(7));
        assert_eq!(read("ghost-limit x").1.ghost_limit, Some(u64::MAX));
    }
}
