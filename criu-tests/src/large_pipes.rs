// SPDX-License-Identifier: Apache-2.0
//! Pipes as large as CRIU needs them to leave memory where it is.

use std::fs;

/// `fs.pipe-max-size`, large enough for CRIU, until it is dropped.
#[derive(Debug)]
pub struct LargePipes(Option<String>);

impl LargePipes {
    const PARAMETER: &str = "/proc/sys/fs/pipe-max-size";

    /// Makes sure that it is.
    ///
    /// # Panics
    /// When it cannot be changed.
    pub fn set() -> Self {
        let now = fs::read_to_string(Self::PARAMETER).expect("read fs.pipe-max-size");
        if now.trim().parse::<u64>().expect("a number") >= 16 << 20 {
            return Self(None);
        }
        fs::write(Self::PARAMETER, "16777216").expect("set fs.pipe-max-size");
        Self(Some(now))
    }
}

impl Drop for LargePipes {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            fs::write(Self::PARAMETER, before).expect("set fs.pipe-max-size back");
        }
    }
}
