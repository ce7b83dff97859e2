// SPDX-License-Identifier: Apache-2.0
//! Sockets of any family, options that are a number, and names of packet sockets.

use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use super::{check, new_fd};

/// socket(2), with close-on-exec.
pub(in crate::zoo) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: integers.
    new_fd(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into())
}

/// An option that is a number.
pub(in crate::zoo) fn number_of(socket: &impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most as many bytes as `length` says, which is what `value` has.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) }.into())?;
    Ok(value)
}

/// See [`number_of`].
pub(in crate::zoo) fn set_number(
    socket: &impl AsFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `length` bytes of a number that lives.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) }.into()).map(drop)
}

/// A raw packet socket for everything that goes over an interface.
pub(in crate::zoo) fn packet_socket(interface: c_int) -> io::Result<OwnedFd> {
    let everything = (libc::ETH_P_ALL as u16).to_be();
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, everything.into())?;
    // SAFETY: all-zero is a valid address, and the kernel reads as many bytes as it has.
    unsafe {
        let mut address: libc::sockaddr_ll = MaybeUninit::zeroed().assume_init();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything;
        address.sll_ifindex = interface;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length).into())?;
    }
    Ok(fd)
}

/// Protocol and interface of a packet socket.
pub(in crate::zoo) fn packet_name(socket: &OwnedFd) -> io::Result<(u16, c_int)> {
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: all-zero is a valid address, and the kernel writes at most as many bytes as it has.
    unsafe {
        let mut address: libc::sockaddr_ll = MaybeUninit::zeroed().assume_init();
        check(libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length).into())?;
        Ok((u16::from_be(address.sll_protocol), address.sll_ifindex))
    }
}
