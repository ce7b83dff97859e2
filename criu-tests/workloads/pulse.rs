// SPDX-License-Identifier: Apache-2.0
//! `pulse`: writes the time of day a thousand times a second into the file `--stamps`, eight bytes of nanoseconds with the low ones first: where
//! two of them are far apart it did not run, by a clock that nobody sets back for it.
//!
//! Holds `--memory` bytes that cannot be compressed, and writes to `--percent` of its pages a second (default 1), each of which it checks
//! then. With `--processes` there are so many, of four threads each, that do nothing but the first.

use std::fs::File;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::pause;

use crate::lifecycle::{Checked, During as _, expect_eq};
use crate::options::Options;
use crate::sys::fork;

const PAGE_WORDS: usize = 4096 / size_of::<u64>();
const PERIOD: Duration = Duration::from_millis(1);
const PERIODS: u64 = 1000;

pub(crate) fn run(options: &Options) -> Checked {
    let pages = usize::try_from(options.number("memory", 4 << 20)? / 4096).during("--memory")?.max(1);
    let percent = options.number("percent", 1)?;
    let processes = options.number("processes", 1)?;
    let path = options.value("stamps").ok_or_else(|| "--stamps FILE is missing".to_owned())?;
    let mut stamps = File::create(path).during(path)?;
    for _ in 1..processes {
        fork(idle).during("fork")?;
    }
    if processes > 1 {
        threads();
    }
    let mut memory: Vec<u64> = (0..pages * PAGE_WORDS).map(noise).collect();
    let mut written = vec![0_u64; pages];
    // In pages a hundred thousand times as small.
    let (mut owed, mut next) = (0, 0);
    loop {
        owed += pages as u64 * percent;
        while owed >= 100 * PERIODS {
            owed -= 100 * PERIODS;
            next = (next + 7919) % pages;
            let at = next * PAGE_WORDS;
            expect_eq("a page's own word", memory[at + 1], noise(at + 1))?;
            expect_eq("a page's count", memory[at], written[next].wrapping_add(noise(at)))?;
            memory[at] = memory[at].wrapping_add(1);
            written[next] += 1;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).during("the time of day")?;
        let now = u64::try_from(now.as_nanos()).during("the time of day")?;
        stamps.write_all(&now.to_le_bytes()).during("write a stamp")?;
        thread::sleep(PERIOD);
    }
}

fn idle() -> i32 {
    threads();
    loop {
        pause();
    }
}

/// Three more, that do nothing.
fn threads() {
    for _ in 0..3 {
        thread::spawn(|| {
            loop {
                thread::park();
            }
        });
    }
}

/// The finaliser of SplitMix64: no two words look alike.
fn noise(index: usize) -> u64 {
    let mut z = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
