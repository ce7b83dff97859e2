// SPDX-License-Identifier: Apache-2.0
//! Registers that a busy thread holds values in, and frames of signal handlers.

use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::check;

/// Rounds of the loop that holds the registers: some milliseconds.
const ROUNDS: u64 = 1 << 22;

/// What the vector registers hold: 32 bytes each, of which a processor without the wide ones has the first half.
pub(in crate::zoo) type Vectors = [[u64; 4]; 16];

/// Fills every vector register, spins, and gives what they hold then. Nothing of it is in memory meanwhile.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(in crate::zoo) fn spin_with(values: &Vectors) -> Vectors {
    let mut after = *values;
    macro_rules! all {
        ($mov:literal, $reg:literal) => {
            std::arch::asm!(concat!(
            $mov, " ", $reg, "0, [{from} + 0]\n",
            $mov, " ", $reg, "1, [{from} + 32]\n",
            $mov, " ", $reg, "2, [{from} + 64]\n",
            $mov, " ", $reg, "3, [{from} + 96]\n",
            $mov, " ", $reg, "4, [{from} + 128]\n",
            $mov, " ", $reg, "5, [{from} + 160]\n",
            $mov, " ", $reg, "6, [{from} + 192]\n",
            $mov, " ", $reg, "7, [{from} + 224]\n",
            $mov, " ", $reg, "8, [{from} + 256]\n",
            $mov, " ", $reg, "9, [{from} + 288]\n",
            $mov, " ", $reg, "10, [{from} + 320]\n",
            $mov, " ", $reg, "11, [{from} + 352]\n",
            $mov, " ", $reg, "12, [{from} + 384]\n",
            $mov, " ", $reg, "13, [{from} + 416]\n",
            $mov, " ", $reg, "14, [{from} + 448]\n",
            $mov, " ", $reg, "15, [{from} + 480]\n",
            "2: dec {rounds}\n", "jnz 2b\n",
            $mov, " [{to} + 0], ", $reg, "0\n",
            $mov, " [{to} + 32], ", $reg, "1\n",
            $mov, " [{to} + 64], ", $reg, "2\n",
            $mov, " [{to} + 96], ", $reg, "3\n",
            $mov, " [{to} + 128], ", $reg, "4\n",
            $mov, " [{to} + 160], ", $reg, "5\n",
            $mov, " [{to} + 192], ", $reg, "6\n",
            $mov, " [{to} + 224], ", $reg, "7\n",
            $mov, " [{to} + 256], ", $reg, "8\n",
            $mov, " [{to} + 288], ", $reg, "9\n",
            $mov, " [{to} + 320], ", $reg, "10\n",
            $mov, " [{to} + 352], ", $reg, "11\n",
            $mov, " [{to} + 384], ", $reg, "12\n",
            $mov, " [{to} + 416], ", $reg, "13\n",
            $mov, " [{to} + 448], ", $reg, "14\n",
            $mov, " [{to} + 480], ", $reg, "15\n"),
            rounds = inout(reg) ROUNDS => _, from = in(reg) values.as_ptr(), to = in(reg) after.as_mut_ptr(),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack))
        };
    }
    // SAFETY: reads and writes within the two arrays; every vector register is named as changed, and the processor is
    // asked for the wide ones.
    unsafe {
        if std::arch::is_x86_feature_detected!("avx") {
            all!("vmovdqu", "ymm");
        } else {
            all!("movdqu", "xmm");
        }
    }
    after
}

/// See above.
#[cfg(target_arch = "aarch64")]
pub(in crate::zoo) fn spin_with(values: &Vectors) -> Vectors {
    let mut after = *values;
    // SAFETY: reads and writes within the two arrays; the registers are named as changed.
    unsafe {
        std::arch::asm!(
            "ld1 {{v0.2d-v3.2d}}, [{from}]", "2: subs {rounds}, {rounds}, 1", "b.ne 2b", "st1 {{v0.2d-v3.2d}}, [{to}]",
            rounds = inout(reg) ROUNDS => _, from = in(reg) values.as_ptr(), to = in(reg) after.as_mut_ptr(),
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, options(nostack),
        );
    }
    after
}

/// The control words of floating point: how it rounds and what it forgives.
#[cfg(target_arch = "x86_64")]
pub(in crate::zoo) type FloatControl = (u32, u16);
#[cfg(target_arch = "aarch64")]
pub(in crate::zoo) type FloatControl = u64;

/// To round up; to round to zero and flush what is too small.
#[cfg(target_arch = "x86_64")]
pub(in crate::zoo) const ROUNDINGS: [FloatControl; 2] =
    [(0x1f80 | 0x4000, 0x0b7f), (0x9f80 | 0x6000, 0x0f7f)];
#[cfg(target_arch = "aarch64")]
pub(in crate::zoo) const ROUNDINGS: [FloatControl; 2] = [0x0040_0000, 0x01c0_0000];

/// See [`FloatControl`].
#[cfg(target_arch = "x86_64")]
pub(in crate::zoo) fn float_control() -> FloatControl {
    let (mut sse, mut x87) = (0_u32, 0_u16);
    // SAFETY: both are stored to memory that lives and is large enough.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut sse, options(nostack));
        std::arch::asm!("fnstcw [{}]", in(reg) &raw mut x87, options(nostack));
    }
    // What has happened so far are flags in the lowest six bits.
    (sse & !0x3f, x87)
}

/// See [`FloatControl`].
#[cfg(target_arch = "aarch64")]
pub(in crate::zoo) fn float_control() -> FloatControl {
    let control: u64;
    // SAFETY: reads a register that every program may read.
    unsafe {
        std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
    }
    control
}

/// See [`FloatControl`]. The thread must not calculate with what it has set.
#[cfg(target_arch = "x86_64")]
pub(in crate::zoo) fn set_float_control((sse, x87): FloatControl) {
    // SAFETY: both are loaded from memory that lives; no exception is unmasked.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const sse, options(nostack));
        std::arch::asm!("fldcw [{}]", in(reg) &raw const x87, options(nostack));
    }
}

/// See above.
#[cfg(target_arch = "aarch64")]
pub(in crate::zoo) fn set_float_control(control: FloatControl) {
    // SAFETY: writes a register that every program may write; no exception is unmasked.
    unsafe {
        std::arch::asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack));
    }
}

static ENTERED: AtomicU64 = AtomicU64::new(0);
static LEAVE: AtomicU64 = AtomicU64::new(0);

extern "C" fn stay(_: c_int) {
    let round = ENTERED.fetch_add(1, Ordering::SeqCst) + 1;
    while LEAVE.load(Ordering::SeqCst) < round {
        std::hint::spin_loop();
    }
}

/// How often a handler was entered.
pub(in crate::zoo) fn entered() -> u64 {
    ENTERED.load(Ordering::SeqCst)
}

/// Lets the handler of this round return.
pub(in crate::zoo) fn leave(round: u64) {
    LEAVE.store(round, Ordering::SeqCst);
}

/// From now on this signal enters a handler, which stays there until [`leave`].
pub(in crate::zoo) fn stay_in_handler(signal: c_int) -> io::Result<()> {
    // SAFETY: the handler uses atomics only. All-zero is an empty mask and no flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = stay as extern "C" fn(c_int) as libc::sighandler_t;
        check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Sends a signal to one thread of this process.
pub(in crate::zoo) fn signal_thread(thread: nix::unistd::Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.as_raw(), signal) }).map(drop)
}
