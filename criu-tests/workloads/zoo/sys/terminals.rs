// SPDX-License-Identifier: Apache-2.0
//! Settings of terminals.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use super::check;

/// A setting of a terminal that ioctl(2) reads as a number.
pub(in crate::zoo) fn number_of(terminal: &impl AsFd, request: libc::c_ulong) -> io::Result<c_int> {
    let mut value: c_int = 0;
    // SAFETY: exhibits name requests that write one number.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), request, &raw mut value) }.into())?;
    Ok(value)
}

/// A setting of a terminal that ioctl(2) takes from a number.
pub(in crate::zoo) fn set_number(
    terminal: &impl AsFd,
    request: libc::c_ulong,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: exhibits name requests that read one number.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), request, &raw const value) }.into()).map(drop)
}

/// Makes a terminal the controlling one of the calling process, which leads its session.
pub(in crate::zoo) fn control(terminal: &impl AsFd) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Rows and columns of a terminal.
pub(in crate::zoo) fn window(terminal: &impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes this structure.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into())?;
    Ok((size.ws_row, size.ws_col))
}

/// See [`window`].
pub(in crate::zoo) fn set_window(terminal: &impl AsFd, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads this structure.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())
        .map(drop)
}
