// SPDX-License-Identifier: Apache-2.0
//! System calls that a process has given up.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use nix::unistd::{getpid, gettid};

use super::proc::status;
use super::sys::seccomp::{echo_strictly, refuse, tried};
use super::threads::Asked;
use super::{Child, Made, child, made};
use crate::lifecycle::{Checked, During as _, expect_eq};
use crate::sys;

super::exhibits![
    seccomp_strict,
    seccomp_filter,
    seccomp_filters_stacked,
    seccomp_inherited,
    seccomp_of_one_thread,
    seccomp_of_all_threads,
];

/// Mode, number of filters and what comes of the calls `getppid`, `getuid`, `getgid`.
fn seen() -> Result<String, String> {
    let tried = [libc::SYS_getppid, libc::SYS_getuid, libc::SYS_getgid].map(tried);
    Ok(format!("{} {} {tried:?}", status(gettid(), "Seccomp")?, status(gettid(), "Seccomp_filters")?))
}

const NONE: &str = "0 0 [0, 0, 0]";

fn give_up(call: libc::c_long, errno: u16) -> Checked {
    nix::sys::prctl::set_no_new_privs().during("PR_SET_NO_NEW_PRIVS")?;
    refuse(call, errno, 0).during("seccomp")
}

/// Only read, write and the end.
fn seccomp_strict() -> Made {
    let (asked, mut questions) = std::io::pipe().during("pipe")?;
    let (mut answers, answering) = std::io::pipe().during("pipe")?;
    let pid = sys::fork(|| echo_strictly(asked.as_fd(), answering.as_fd())).during("fork")?;
    child::keep(pid);
    drop((asked, answering));
    let mut round = 0_u8;
    made(move || {
        round = round.wrapping_add(1);
        questions.write_all(&[round]).during("write")?;
        let mut byte = [0];
        answers.read_exact(&mut byte).during("read")?;
        expect_eq("answer", byte[0], round.wrapping_add(1))?;
        expect_eq("mode", status(pid, "Seccomp")?.as_str(), "1")
    })
}

/// One call less.
fn seccomp_filter() -> Made {
    let mut child = Child::start(|| {
        give_up(libc::SYS_getppid, 77)?;
        Ok(|_: &str| seen())
    })?;
    made(move || {
        child.expect("mode, filters, calls", "2 1 [77, 0, 0]")?;
        expect_eq("own", seen()?.as_str(), NONE)
    })
}

/// Filters on filters; the last one goes before the others where both refuse.
fn seccomp_filters_stacked() -> Made {
    let mut child = Child::start(|| {
        give_up(libc::SYS_getppid, 71)?;
        give_up(libc::SYS_getuid, 72)?;
        give_up(libc::SYS_getppid, 73)?;
        Ok(|_: &str| seen())
    })?;
    made(move || child.expect("mode, filters, calls", "2 3 [73, 72, 0]"))
}

/// A child has the filters of its parent, and one of its own.
fn seccomp_inherited() -> Made {
    let mut child = Child::start(|| {
        give_up(libc::SYS_getppid, 71)?;
        let mut second = Child::start(|| {
            give_up(libc::SYS_getgid, 74)?;
            Ok(|_: &str| seen())
        })?;
        Ok(move |_: &str| Ok(format!("{} / {}", seen()?, second.ask("mode, filters, calls")?)))
    })?;
    made(move || child.expect("mode, filters, calls", "2 1 [71, 0, 0] / 2 2 [71, 0, 74]"))
}

fn two_threads(own: &'static str, ones: &'static str, others: &'static str, flags: libc::c_ulong) -> Made {
    let mut other = Asked::start("free", || Ok(|_: &str| seen()))?;
    let mut one = Asked::start("bound", move || {
        nix::sys::prctl::set_no_new_privs().during("PR_SET_NO_NEW_PRIVS")?;
        refuse(libc::SYS_getuid, 72, flags).during("seccomp")?;
        Ok(|_: &str| seen())
    })?;
    made(move || {
        one.expect("the one thread's", ones)?;
        other.expect("the other thread's", others)?;
        expect_eq("the first thread's", status(getpid(), "Seccomp")?.as_str(), &own[..1])?;
        expect_eq("the first thread's", seen()?.as_str(), own)
    })
}

/// A filter that one thread has and the others have not.
fn seccomp_of_one_thread() -> Made {
    two_threads(NONE, "2 1 [0, 72, 0]", NONE, 0)
}

/// A filter that one thread made for all.
fn seccomp_of_all_threads() -> Made {
    const ALL: &str = "2 1 [0, 72, 0]";
    two_threads(ALL, ALL, ALL, libc::SECCOMP_FILTER_FLAG_TSYNC)
}
