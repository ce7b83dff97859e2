// SPDX-License-Identifier: Apache-2.0
//! The masters of restored terminals: CRIU makes each pseudo-terminal anew and hands its master out, for somebody to
//! hold. Must not know who that is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::isatty;

use crate::engine::Console;
use crate::sys::tty;
use crate::{Context, Error, ErrorKind, Result};

/// More terminals than a container has sessions; what comes beyond is closed at once.
const MOST: usize = 64;

/// Makes sure that whatever was a terminal of the host becomes one again: CRIU sets its modes. What the caller has `given`
/// a descriptor for by its key does not come from stdio.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for the first descriptor that is none.
pub(in crate::restore) fn require_terminals(
    names: &[String; 3],
    stdio: [BorrowedFd<'_>; 3],
    given: &[(String, OwnedFd)],
) -> Result<()> {
    let is_given = |name: &String| given.iter().any(|(key, _)| key == name);
    let wanted = names.iter().zip(stdio).enumerate();
    let wanted = wanted.filter(|(_, (name, _))| name.starts_with("tty[") && !is_given(name));
    for (number, (_, fd)) in wanted {
        if !isatty(fd).unwrap_or(false) {
            let message = format!(
                "descriptor {number} of the container was a terminal of the host at the checkpoint, and would not be one now"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message).with_hint(
                "run restore --detach with a terminal as stdin, stdout and stderr; script(1) makes one",
            ));
        }
    }
    Ok(())
}

/// The terminals of a container that is being restored.
#[derive(Debug)]
pub(in crate::restore) struct Terminal {
    console: Option<Console>,
    /// Masters, each with the number of its terminal.
    masters: Vec<(u32, OwnedFd)>,
}

impl Terminal {
    /// `console` gets the master of the container's own terminal.
    pub(in crate::restore) fn new(console: Option<Console>) -> Self {
        Self { console, masters: Vec::new() }
    }

    /// Takes a master from CRIU.
    pub(in crate::restore) fn collect(&mut self, master: OwnedFd) -> Result<()> {
        let number = tty::number(master.as_fd()).context(|| "ioctl(TIOCGPTN) of a restored terminal")?;
        if self.masters.len() < MOST {
            self.masters.push((number, master));
        }
        Ok(())
    }

    /// Hands the container's own terminal over, before any process runs. The others belonged to `exec` sessions whose
    /// callers are gone: closing their masters hangs them up.
    pub(in crate::restore) fn hand_over(&mut self) -> Result<()> {
        // A new devpts counts from 0 and init has opened the first: the least number is its terminal, whatever the
        // order in which CRIU restores them.
        self.masters.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        if let Some(console) = self.console.take() {
            match self.masters.pop() {
                Some((_, master)) => console.send(master.as_fd())?,
                None => tracing::warn!("the restored container has no terminal that could be handed over"),
            }
        }
        for (number, _) in self.masters.drain(..) {
            tracing::warn!(terminal = %format_args!("/dev/pts/{number}"), "nobody holds a restored terminal: it is hung up");
        }
        Ok(())
    }
}
