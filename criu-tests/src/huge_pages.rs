// SPDX-License-Identifier: Apache-2.0
//! Huge pages: reserved for a test, and given back.

use std::fs;
use std::path::Path;

const RESERVED: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Some pages of two megabytes that nothing else on the machine has reserved.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
}

impl HugePages {
    /// Why there cannot be any, if so.
    pub(crate) fn missing() -> Option<String> {
        (!Path::new(RESERVED).exists()).then(|| "the kernel has no huge pages".to_owned())
    }

    /// Reserves this many more.
    ///
    /// # Panics
    /// When the kernel has no room for them.
    pub fn reserve(count: u64) -> Self {
        let new = Self { before: reserved() };
        let wanted = new.before + count;
        fs::write(RESERVED, wanted.to_string()).expect("reserve huge pages");
        assert_eq!(reserved(), wanted, "the kernel finds no room for {count} huge pages");
        new
    }
}

fn reserved() -> u64 {
    let text = fs::read_to_string(RESERVED).expect("read the number of huge pages");
    text.trim().parse().expect("the kernel writes a number")
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // A test that failed has failed already; what a process still uses goes back when that process ends.
        let _ = fs::write(RESERVED, self.before.to_string());
    }
}
