// SPDX-License-Identifier: Apache-2.0
//! Mappings of all kinds, and what can be set for them.

use std::sync::atomic::Ordering;

use super::{Child, Made, made};
use crate::lifecycle::{During as _, expect_eq};
use crate::sys;

super::exhibits![shared_anonymous];

/// A page that two processes share: what one writes the other reads.
fn shared_anonymous() -> Made {
    let words = sys::shared_words(512).during("mmap")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            Ok(words.iter().map(|word| word.fetch_add(1, Ordering::SeqCst)).sum::<u64>().to_string())
        })
    })?;
    let mut round = 0;
    made(move || {
        child.expect("sum of all words", &(round * 512).to_string())?;
        round += 1;
        let wrong = words.iter().filter(|word| word.load(Ordering::SeqCst) != round).count();
        expect_eq("words that the child did not reach", wrong, 0)
    })
}
