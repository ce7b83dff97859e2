// SPDX-License-Identifier: Apache-2.0
//! Stdio that is not the container's: a log file or a terminal of the host on descriptors 0 to 2 cannot be opened again
//! by path inside the container, and a socket has another end elsewhere. CRIU is told to leave such a one out under
//! a key, and the restore gives it a new descriptor. Pipes need no telling: their key is what `/proc/PID/fd` calls them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::engine::InitProcess;
use crate::sys::mountinfo;
use crate::sys::proc::{KnownSocket, known_socket};
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

/// What follows from where a descriptor leads.
enum Given {
    /// CRIU opens it again, or is given it under the name that it has.
    Known,
    /// CRIU leaves it out under a key of its kind, and a restore gives it a new one under this name.
    LeftOut {
        /// What a dump must be told.
        external: String,
        /// What a restore gives.
        name: String,
    },
}

/// Looks at the descriptors of a running init. `given` is what they were at its start. With `shell_job` a terminal of the
/// host is CRIU's to deal with.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a socket of another network namespace than the container's.
pub(super) fn inspect(init: InitProcess, given: &[String; 3], shell_job: bool) -> Result<Stdio> {
    let path = format!("/proc/{}/mountinfo", init.pid);
    let bytes = fs::read(&path).context(|| format!("read {path}"))?;
    let own: HashSet<u64> =
        mountinfo::parse(&bytes).context(|| format!("understand {path}"))?.iter().map(|m| m.id).collect();
    let mut names = given.clone();
    let mut external = Vec::new();
    for (number, name) in names.iter_mut().enumerate() {
        let Given::LeftOut { external: key, name: now } = look_at(init, number, name, &own, shell_job)?
        else {
            continue;
        };
        name.clone_from(&now);
        if !external.contains(&key) {
            external.push(key);
        }
    }
    Ok(Stdio { names, external })
}

fn look_at(
    init: InitProcess,
    number: usize,
    given: &str,
    own: &HashSet<u64>,
    shell_job: bool,
) -> Result<Given> {
    let fd = format!("/proc/{}/fd/{number}", init.pid);
    // A descriptor that the program has closed needs nothing.
    let Ok(target) = fs::read_link(&fd) else { return Ok(Given::Known) };
    let link = target.to_string_lossy();
    if let Some(inode) = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
        // One that the container made, it can make again.
        return if link == given { socket(init, number, inode) } else { Ok(Given::Known) };
    }
    // Pipes and memory files have no path that could be opened.
    if !target.is_absolute() || link.starts_with("/memfd:") {
        return Ok(Given::Known);
    }
    let info = format!("/proc/{}/fdinfo/{number}", init.pid);
    let text = fs::read_to_string(&info).context(|| format!("read {info}"))?;
    let Some(mount) = text.lines().find_map(|l| l.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok()) else {
        return Ok(Given::Known);
    };
    if own.contains(&mount) {
        return Ok(Given::Known);
    }
    let status = fs::metadata(&fd).context(|| format!("stat {fd}"))?;
    let is_terminal =
        status.file_type().is_char_device() && TERMINALS.contains(&nix::sys::stat::major(status.rdev()));
    if is_terminal && shell_job {
        return Ok(Given::Known);
    }
    // Both forms are CRIU's, in hexadecimal.
    let key = match is_terminal {
        true => format!("tty[{:x}:{:x}]", status.rdev(), status.dev()),
        false => format!("file[{mount:x}:{:x}]", status.ino()),
    };
    Ok(Given::LeftOut { external: key.clone(), name: key })
}

/// A socket whose other end somebody outside of the container has. CRIU can only look at those of the container's network
/// namespace, which is the one that they were made in.
fn socket(init: InitProcess, number: usize, inode: &str) -> Result<Given> {
    let known = inode.parse().ok().map(|inode| known_socket(init.pid(), inode)).transpose();
    match known.context(|| {
        format!("read the sockets of the container's network namespace, /proc/{}/net", init.pid)
    })? {
        Some(Some(KnownSocket::Unix)) => {
            Ok(Given::LeftOut { external: format!("unix[{inode}]"), name: format!("socket:[{inode}]") })
        }
        Some(Some(KnownSocket::Inet)) => Ok(Given::Known),
        Some(None) | None => {
            let message = format!(
                "descriptor {number} of the container is a socket that was not made in the container's network namespace, \
                 which criu cannot carry"
            );
            Err(Error::new(ErrorKind::Unsupported, message).with_hint(
                "start the container with pipes, files or /dev/null as stdin, stdout and stderr, or with a unix socket that \
                 was made in its network namespace",
            ))
        }
    }
}
