// SPDX-License-Identifier: Apache-2.0
//! Who descends from whom, as `/proc` tells. What was found out once is not asked again.

use std::collections::HashMap;

use nix::unistd::Pid;

use super::proc::Stat;

/// More parents than this is a loop, which changes of `/proc` between two looks may look like.
const MOST_PARENTS: usize = 1 << 16;

/// The parents of processes, as far as they were asked for; `None` of one that is gone.
#[derive(Debug, Default)]
pub struct Ancestry(HashMap<i32, Option<i32>>);

impl Ancestry {
    /// Whether a process is `ancestor` or descends from it.
    pub fn descends(&mut self, pid: i32, ancestor: i32) -> bool {
        let mut now = pid;
        for _ in 0..MOST_PARENTS {
            if now == ancestor {
                return true;
            }
            let parent_of = |pid| Stat::of(Pid::from_raw(pid)).ok().map(|stat| stat.parent);
            match *self.0.entry(now).or_insert_with(|| parent_of(now)) {
                Some(parent) if parent > 0 => now = parent,
                _ => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descent_is_seen_through_parents() {
        let mut known = Ancestry(HashMap::from([(9, Some(8)), (8, Some(7)), (5, Some(0)), (4, None)]));
        assert!(known.descends(9, 7) && known.descends(7, 7));
        assert!(!known.descends(5, 7) && !known.descends(4, 7));
        let mut loops = Ancestry(HashMap::from([(9, Some(8)), (8, Some(9))]));
        assert!(!loops.descends(9, 7));
    }

    #[test]
    fn this_process_has_a_parent() {
        let (own, parent) = (Pid::this().as_raw(), Pid::parent().as_raw());
        let mut asked = Ancestry::default();
        assert!(asked.descends(own, own));
        // A first process of a pid namespace sees none.
        assert_eq!(asked.descends(own, parent), parent > 0);
    }
}
