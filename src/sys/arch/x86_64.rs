// SPDX-License-Identifier: Apache-2.0
//! How a system call is made on x86_64, for who makes one in the place of another process. Knows registers; must not know how
//! they are read or written.

/// What a thread has in its registers.
pub type Registers = libc::user_regs_struct;

/// The instruction that makes a system call.
pub const CALL: [u8; 2] = [0x0f, 0x05];

/// include/linux/errno.h of the kernel: interrupted, and to be made again unless a signal is handled first. No program sees it.
const ERESTARTNOHAND: u64 = 514;

/// System calls that end with `EINTR` for whatever wakes them, and have done nothing by then. Those that know how to be made
/// again end with numbers of the kernel's own instead.
const MADE_AGAIN: [libc::c_long; 20] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    333, // io_pgetevents
    libc::SYS_io_uring_enter,
];

/// The registers of a thread that is about to make this call at the address of such an instruction.
pub fn calling(registers: &Registers, at: u64, number: libc::c_long, arguments: [u64; 2]) -> Registers {
    let mut calling = *registers;
    let [first, second] = arguments;
    (calling.rip, calling.rax) = (at, number.cast_unsigned());
    (calling.rdi, calling.rsi) = (first, second);
    // It is in no call that would have to be made again.
    calling.orig_rax = u64::MAX;
    calling
}

/// Where it is in its program.
pub fn position(registers: &Registers) -> u64 {
    registers.rip
}

/// What a call has returned: an error number below zero.
pub fn result(registers: &Registers) -> i64 {
    registers.rax.cast_signed()
}

/// What a thread that was stopped is to have in its registers to go on as if it had not been: a call that ends because it was
/// woken, and for no other reason, is made again, unless a signal is to be handled. The kernel does the rest.
pub fn undisturbed(registers: &Registers) -> Registers {
    let mut undisturbed = *registers;
    let interrupted = registers.rax.cast_signed() == -i64::from(libc::EINTR);
    if interrupted && MADE_AGAIN.contains(&registers.orig_rax.cast_signed()) {
        undisturbed.rax = ERESTARTNOHAND.wrapping_neg();
    }
    undisturbed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        // SAFETY: registers are numbers.
        unsafe { std::mem::zeroed() }
    }

    #[test]
    fn a_call_takes_nothing_but_its_own_registers() {
        let mut before = registers();
        (before.rbx, before.rsp, before.orig_rax) = (7, 8, 35);
        let calling = calling(&before, 0x1000, libc::SYS_close, [3, 4]);
        assert_eq!((calling.rip, calling.rax, calling.rdi, calling.rsi), (0x1000, 3, 3, 4));
        assert_eq!((calling.rbx, calling.rsp, calling.orig_rax), (7, 8, u64::MAX));
    }

    #[test]
    fn only_a_wait_that_was_woken_is_made_again() {
        let eintr = i64::from(-libc::EINTR).cast_unsigned();
        for (number, before, after) in [
            (libc::SYS_epoll_wait, eintr, 514_u64.wrapping_neg()),
            (libc::SYS_connect, eintr, eintr),
            (libc::SYS_close, eintr, eintr),
            (libc::SYS_epoll_wait, 1, 1),
            (-1, eintr, eintr),
        ] {
            let mut stopped = registers();
            (stopped.orig_rax, stopped.rax) = (number.cast_unsigned(), before);
            assert_eq!(undisturbed(&stopped).rax, after, "{number}");
        }
    }
}
