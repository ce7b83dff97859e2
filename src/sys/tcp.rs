// SPDX-License-Identifier: Apache-2.0
//! Repair mode of TCP sockets (tcp(7), `TCP_REPAIR`): CRIU puts them into it to take them apart. One that stays in it
//! can neither be read nor written.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const TCP_REPAIR: libc::c_int = 19;

/// Takes a socket out of repair mode, as whoever has it would. Tells whether it was in it; sockets of other kinds are
/// not.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN over the socket's network namespace.
pub fn leave_repair(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `value`, and the number of them to `size`.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_REPAIR,
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    if asked != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::ENOTSOCK) => Ok(false),
            _ => Err(error),
        };
    }
    // On one that is not in repair mode the call would change other settings.
    if value == 0 {
        return Ok(false);
    }
    let off: libc::c_int = 0;
    // SAFETY: the kernel reads one int.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_REPAIR,
            (&raw const off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_socket_in_repair_mode_can_be_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let mut stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        let (mut other, _) = listener.accept().expect("accept");
        assert!(!leave_repair(stream.as_fd()).expect("it is in use"));
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one int.
        let set = unsafe {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, TCP_REPAIR, (&raw const on).cast(), size)
        };
        assert_eq!(set, 0, "repair mode needs CAP_NET_ADMIN");
        stream.read(&mut [0]).expect_err("nobody reads from it now");
        assert!(leave_repair(stream.as_fd()).expect("leave"));
        other.write_all(b"x").expect("write");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        assert!(!leave_repair(udp.as_fd()).expect("it is no TCP socket"));
        let null = std::fs::File::open("/dev/null").expect("open");
        assert!(!leave_repair(null.as_fd()).expect("it is no socket"));
    }
}
