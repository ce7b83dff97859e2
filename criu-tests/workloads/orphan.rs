// SPDX-License-Identifier: Apache-2.0
//! `orphan`: leaves a `counter` behind that reports to `--status`, and ends.

use std::process::{Command, Stdio};

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

pub(crate) fn run(options: &Options) -> Checked {
    let (status, dir) = (options.status()?, options.dir()?);
    let mut counter = Command::new("/proc/self/exe");
    counter.arg("counter").arg("--status").arg(status).arg("--dir").arg(dir);
    counter.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Whoever reaps it is not we.
    counter.spawn().map(drop).during("start a counter")
}
