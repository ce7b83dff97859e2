// SPDX-License-Identifier: Apache-2.0
//! A test that needs instructions of its own: a thread in one of its restartable sequences (rseq(2)) is not touched, for its end must not
//! be reached when the kernel has looked elsewhere.

use std::arch::asm;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::sys::tracee::tests::{Child, LIMIT, shared, until};
use crate::sys::tracee::{Step, take_userfaultfd};

/// The address of this thread's `rseq_cs`, where the C library has registered one.
fn field() -> Option<*mut u64> {
    let (size, offset) = (symbol(c"__rseq_size"), symbol(c"__rseq_offset"));
    if size.is_null() || offset.is_null() {
        return None;
    }
    let thread: *mut u8;
    // SAFETY: both variables are those of the C library, which has set them; the first word of a thread's own area is its address.
    unsafe {
        if *size.cast::<u32>() == 0 {
            return None;
        }
        asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly));
        Some(thread.offset(*offset.cast::<isize>()).add(8).cast())
    }
}

fn symbol(name: &std::ffi::CStr) -> *mut libc::c_void {
    // SAFETY: the name ends with a NUL byte.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Goes once through a sequence of some microseconds: 0, or 1 if the kernel had it begin again; 2 if it came to its end although the
/// kernel had taken it for left.
///
/// # Safety
/// `field` is that of this thread.
unsafe fn pass(field: *mut u64) -> u64 {
    let result: u64;
    // SAFETY: writes to nothing but `field` and registers; where the kernel has it go when it was interrupted is in here, and has
    // the signature before it that the C library has registered.
    unsafe {
        asm!(
            ".pushsection .data.rel.local, \"aw\"",
            ".balign 32",
            "73: .long 0, 0",
            ".quad 74f, 75f - 74f, 76f",
            ".popsection",
            "lea {scratch}, [rip + 73b]",
            "mov qword ptr [{field}], {scratch}",
            "74: mov {scratch}, 20000",
            "77: dec {scratch}",
            "jnz 77b",
            "mov {result}, 0",
            "cmp qword ptr [{field}], 0",
            "jne 75f",
            "mov {result}, 2",
            "75: jmp 78f",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            "76: mov {result}, 1",
            "78:",
            scratch = out(reg) _,
            result = out(reg) result,
            field = in(reg) field,
            options(nostack),
        );
    }
    result
}

#[test]
fn a_restartable_sequence_is_begun_again_or_not_touched() {
    let Some(field) = field() else { return };
    let words = shared();
    let child = Child::fork(|| {
        while words[0].load(Ordering::Relaxed) == 0 {
            // SAFETY: a forked child is the copy of this thread, with its area at the same address.
            let passed = unsafe { pass(field) };
            words[1 + passed as usize].fetch_add(1, Ordering::Relaxed);
        }
        i32::from(words[3].load(Ordering::Relaxed) != 0)
    });
    until("it passes", || words[1].load(Ordering::Relaxed) > 0);
    let (mut taken, mut inside) = (0, 0);
    let deadline = Instant::now() + LIMIT;
    while (taken < 10 || inside < 10) && Instant::now() < deadline {
        match take_userfaultfd(child.tracee(), LIMIT) {
            Ok(_) => taken += 1,
            Err(failure) if failure.step == Step::Section => inside += 1,
            Err(failure) => panic!("{failure}"),
        }
    }
    words[0].store(1, Ordering::Relaxed);
    assert_eq!(child.code(), 0, "it came to the end of a sequence that the kernel had given up");
    // It is inside most of the time.
    assert!(inside >= 10 && words[2].load(Ordering::Relaxed) > 0, "{taken} taken, {inside} inside");
}
