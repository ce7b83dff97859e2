// SPDX-License-Identifier: Apache-2.0
//! This program, started again for each connection with the same command line and `--served`.

use std::process::Command;

use super::output;
use crate::Result;
use crate::migration::agent::{Bounds, Door, serve};

/// Serves whoever comes through this door, for ever.
///
/// # Errors
/// When nobody can be waited for any more.
pub(super) fn serve_all(door: &Door, bounds: Bounds) -> Result<()> {
    let again = || {
        // Under its own name there may be a newer one by now.
        let mut command = Command::new("/proc/self/exe");
        command.args(std::env::args_os().skip(1)).arg("--served");
        command
    };
    // It is not the last one.
    serve(door, bounds, &again, &mut output::error)
}
