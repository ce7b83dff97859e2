// SPDX-License-Identifier: Apache-2.0
//! `hog`: takes `--memory` bytes, or makes `--forks` processes that wait, as far as it is let, and prints how far that was. With
//! `--wait` it then waits for a signal. With `--bomb` it does nothing but make processes that do the same, whatever becomes of it.

use std::io::Write as _;

use nix::unistd::pause;
use serde_json::json;

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;
use crate::sys;

/// Taken at a time, and written to: memory that is not used costs nothing.
const CHUNK: usize = 1 << 20;

pub(crate) fn run(options: &Options) -> Checked {
    if options.has("bomb") {
        return explode();
    }
    let mut chunks = Vec::new();
    let wanted = usize::try_from(options.number("memory", 0)?).during("--memory")?;
    while chunks.len() * CHUNK < wanted {
        chunks.push(std::hint::black_box(vec![0x5a_u8; CHUNK]));
    }
    let mut forked = 0;
    let mut why = String::new();
    while forked < options.number("forks", 0)? && why.is_empty() {
        let child = sys::fork(|| {
            pause();
            0
        });
        match child {
            Ok(_) => forked += 1,
            Err(error) => why = error.raw_os_error().unwrap_or_default().to_string(),
        }
    }
    let line = json!({"memory": chunks.len() * CHUNK, "forked": forked, "errno": why});
    writeln!(std::io::stdout(), "{line}").during("write to stdout")?;
    if options.has("wait") {
        pause();
    }
    Ok(())
}

/// Ignores who asks it to end.
fn explode() -> Checked {
    sys::ignore_term().during("ignore SIGTERM")?;
    loop {
        // Refused is what a limit makes of it.
        let _ = sys::fork(|| match explode() {
            Ok(()) => 0,
            Err(_) => 1,
        });
    }
}
