// SPDX-License-Identifier: Apache-2.0
//! How a system call is made on aarch64, for who makes one in the place of another process. Knows registers; must not know how
//! they are read or written.
//!
//! The kernel has set a thread back to its call, which is to be made again, before its registers can be read. So a sleep for
//! a length of time begins anew, and one of the few waits that nothing makes again ends with `EINTR`, as after a stop by a signal.

/// What a thread has in its registers.
pub type Registers = libc::user_regs_struct;

/// The instruction that makes a system call: `svc #0`.
pub const CALL: [u8; 4] = [0x01, 0x00, 0x00, 0xd4];

/// The kind of branch that the last instruction was, in the state of the processor: `svc` is no place to branch to.
const BRANCH_TYPE: u64 = 3 << 10;

/// The registers of a thread that is about to make this call at the address of such an instruction.
pub fn calling(registers: &Registers, at: u64, number: libc::c_long, arguments: [u64; 2]) -> Registers {
    let mut calling = *registers;
    let [first, second] = arguments;
    (calling.regs[0], calling.regs[1]) = (first, second);
    calling.regs[8] = number.cast_unsigned();
    calling.pc = at;
    calling.pstate &= !BRANCH_TYPE;
    calling
}

/// Where it is in its program.
pub fn position(registers: &Registers) -> u64 {
    registers.pc
}

/// What a call has returned: an error number below zero.
pub fn result(registers: &Registers) -> i64 {
    registers.regs[0].cast_signed()
}

/// What a thread that was stopped is to have in its registers to go on as if it had not been.
pub fn undisturbed(registers: &Registers) -> Registers {
    *registers
}
