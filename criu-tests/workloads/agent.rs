// SPDX-License-Identifier: Apache-2.0
//! `agent`: is asked about system calls. Its standard input is a Unix socket that listens; it takes one connection, prints
//! what it is told of the process, and answers each question with the error `--errno`, until nobody asks any more.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

pub(crate) fn run(options: &Options) -> Checked {
    let errno = i32::try_from(options.number("errno", 0)?).during("--errno")?;
    let (state, questions) =
        crate::sys::accept_descriptor(std::io::stdin().as_fd()).during("take a descriptor")?;
    writeln!(std::io::stdout(), "{state}").during("write to stdout")?;
    while crate::sys::answer_one(questions.as_fd(), errno).during("answer")? {}
    Ok(())
}
