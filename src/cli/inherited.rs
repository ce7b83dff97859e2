// SPDX-License-Identifier: Apache-2.0
//! The descriptors beyond stdio that the command was started with: a service manager's sockets (`LISTEN_FDS`), then those
//! of `--preserve-fds`.

use crate::sys::fd::inherited;
use crate::{Error, ErrorKind, Result};

/// What was there before the command opened anything.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Inherited {
    /// How many descriptors were open from number 3 on, without a gap.
    open: u32,
    /// How many of them a service manager has passed to this very process (sd_listen_fds(3)).
    listen: u32,
}

/// What of that a process gets.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// How many descriptors from number 3 on.
    pub(super) descriptors: u32,
    /// What it is told of them.
    pub(super) environment: Vec<String>,
}

impl Inherited {
    /// Looks, and must be the first thing that a command does.
    pub(super) fn now() -> Self {
        let open = (3..).take_while(|number| inherited(*number).is_ok()).count();
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let for_us = number("LISTEN_PID") == Some(std::process::id());
        let listen = number("LISTEN_FDS").filter(|_| for_us).unwrap_or(0);
        Self { open: u32::try_from(open).unwrap_or(u32::MAX), listen }
    }

    /// The sockets of the service manager and that many more.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with the first one that is not there.
    pub(super) fn pass(self, preserve: u32) -> Result<Passed> {
        let descriptors = self.listen.saturating_add(preserve);
        if descriptors > self.open {
            let message = match self.open.checked_sub(self.listen) {
                Some(missing) => format!("unable to stat preserved-fd {missing} (of {preserve})"),
                None => {
                    format!("LISTEN_FDS is {}, but descriptor {} is not open", self.listen, self.open + 3)
                }
            };
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint(format!("descriptor {} must be open when the command starts", self.open + 3)));
        }
        let environment = match self.listen {
            0 => Vec::new(),
            count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
        };
        Ok(Passed { descriptors, environment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_missing_is_named() {
        let inherited = Inherited { open: 3, listen: 2 };
        let passed = inherited.pass(1).expect("all are there");
        assert_eq!((passed.descriptors, passed.environment.len()), (3, 2));
        let error = inherited.pass(2).expect_err("one is missing");
        assert_eq!(error.to_string(), "unable to stat preserved-fd 1 (of 2)");
        assert_eq!(error.hint(), Some("descriptor 6 must be open when the command starts"));
        assert!(
            Inherited { open: 0, listen: 1 }.pass(0).expect_err("none").to_string().contains("LISTEN_FDS")
        );
        assert_eq!(Inherited::default().pass(0).expect("none is asked for").descriptors, 0);
    }
}
