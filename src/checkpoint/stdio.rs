// SPDX-License-Identifier: Apache-2.0
//! Stdio that is not the container's: a log file of the host on descriptors 0 to 2 cannot be opened again by path
//! inside the container. CRIU is told to leave it out under a key, and the restore gives that key a new
//! descriptor. Pipes need no telling: their key is what `/proc/PID/fd` calls them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::engine::InitProcess;
use crate::sys::mountinfo;
use crate::{Context, Error, ErrorKind, Result};

/// Majors of the devices that are terminals: consoles and virtual terminals, serial lines, pseudoterminals.
const TERMINALS: [u64; 11] = [4, 5, 136, 137, 138, 139, 140, 141, 142, 143, 204];

/// The container's stdio as the restore must know it, and what CRIU must leave out.
pub(super) struct Stdio {
    /// For `descriptors.json`: what each descriptor was given as, or the key under which it is left out.
    pub(super) names: [String; 3],
    /// The keys.
    pub(super) external: Vec<String>,
}

/// Looks at the descriptors of a running init. `given` is what they were at its start. A terminal of the host cannot be
/// left out and given back; with `shell_job` it is CRIU's to deal with.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a terminal of the host without `shell_job`.
pub(super) fn inspect(init: InitProcess, given: &[String; 3], shell_job: bool) -> Result<Stdio> {
    let path = format!("/proc/{}/mountinfo", init.pid);
    let bytes = fs::read(&path).context(|| format!("read {path}"))?;
    let own: HashSet<u64> =
        mountinfo::parse(&bytes).context(|| format!("understand {path}"))?.iter().map(|m| m.id).collect();
    let mut names = given.clone();
    let mut external = Vec::new();
    for (number, name) in names.iter_mut().enumerate() {
        let Some(key) = external_key(init, number, &own, shell_job)? else { continue };
        name.clone_from(&key);
        if !external.contains(&key) {
            external.push(key);
        }
    }
    Ok(Stdio { names, external })
}

/// The key of a descriptor whose file lies on none of the container's mounts, in CRIU's form: mount and inode, in
/// hexadecimal.
fn external_key(
    init: InitProcess,
    number: usize,
    own: &HashSet<u64>,
    shell_job: bool,
) -> Result<Option<String>> {
    let fd = format!("/proc/{}/fd/{number}", init.pid);
    // A descriptor that the program has closed needs nothing.
    let Ok(target) = fs::read_link(&fd) else { return Ok(None) };
    // Pipes, sockets and memory files have no path that could be opened.
    if !target.is_absolute() || target.as_os_str().as_encoded_bytes().starts_with(b"/memfd:") {
        return Ok(None);
    }
    let info = format!("/proc/{}/fdinfo/{number}", init.pid);
    let text = fs::read_to_string(&info).context(|| format!("read {info}"))?;
    let Some(mount) = text.lines().find_map(|l| l.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok()) else {
        return Ok(None);
    };
    if own.contains(&mount) {
        return Ok(None);
    }
    let status = fs::metadata(&fd).context(|| format!("stat {fd}"))?;
    if status.file_type().is_char_device() && TERMINALS.contains(&nix::sys::stat::major(status.rdev())) {
        if shell_job {
            return Ok(None);
        }
        let message =
            format!("descriptor {number} of the container is the host's terminal {}", target.display());
        return Err(Error::new(ErrorKind::Unsupported, message).with_hint(
            "start the container with stdin, stdout and stderr redirected, to /dev/null or to files",
        ));
    }
    Ok(Some(format!("file[{mount:x}:{:x}]", status.ino())))
}
