// SPDX-License-Identifier: Apache-2.0
//! Signals by the names that people give them.

use nix::sys::signal::Signal;

use crate::{Error, ErrorKind, Result};

/// The kernel's number of a signal given as `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3` or `RTMAX-1`. 0 is none: it asks whether the
/// process is there, as kill(2) says.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when there is no such signal.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || {
        Error::new(ErrorKind::InvalidInput, format!("unknown signal {text:?}"))
            .with_hint("give a number or a name such as TERM or SIGTERM; `kill -l` lists them")
    };
    let highest = libc::SIGRTMAX();
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=highest).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(signal) = format!("SIG{name}").parse::<Signal>() {
        return Ok(signal as i32);
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).and_then(|n| libc::SIGRTMIN().checked_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).and_then(|n| highest.checked_add(n))
    } else {
        None
    };
    number.filter(|n| (libc::SIGRTMIN()..=highest).contains(n)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("RTMIN", libc::SIGRTMIN()),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("RTMAX-1", libc::SIGRTMAX() - 1),
        ] {
            assert_eq!(parse_signal(text).expect(text), number);
        }
        for bad in ["", "-1", "65", "SIGNOPE", "RTMIN+99", "RTMAX+1"] {
            assert_eq!(parse_signal(bad).expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }
}
