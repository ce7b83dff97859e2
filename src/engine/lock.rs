// SPDX-License-Identifier: Apache-2.0
//! One command at a time for each container: an exclusive lock on its directory, which ends with the process that holds it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::{Context, Error, ErrorKind, Result};

/// How long another command may keep a container to itself.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Takes the lock of a container's directory, for as long as the value lives.
pub(super) fn lock(dir: &Path) -> Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        let file = File::open(dir).map_err(|e| {
            let kind =
                if e.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::System };
            Error::new(kind, format!("open {}", dir.display())).with_source(e)
        })?;
        let locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((_, nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR)) if Instant::now() < deadline => {
                // flock(2) has no deadline of its own.
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err((_, nix::errno::Errno::EAGAIN)) => {
                return Err(Error::new(
                    ErrorKind::WrongStatus,
                    format!(
                        "another command has been at work on {} for {} s",
                        dir.display(),
                        LOCK_DEADLINE.as_secs()
                    ),
                )
                .with_hint("wait for it to end, or end it"));
            }
            Err((_, errno)) => return Err(errno).context(|| format!("flock({})", dir.display())),
        };
        // The directory may have been removed, and made again, before we had the lock.
        let same = fs::metadata(dir).is_ok_and(|now| {
            locked.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
        });
        if same {
            return Ok(locked);
        }
        if !dir.exists() {
            return Err(Error::new(ErrorKind::NotFound, format!("{} went away", dir.display())));
        }
    }
}
