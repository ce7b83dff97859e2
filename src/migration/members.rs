// SPDX-License-Identifier: Apache-2.0
//! Several containers that move as one: there is one migration, one journal and one decision for all of them, and what is asked of the
//! processes of one container elsewhere is asked of all of them here. Pure; must not know how they are moved.
//!
//! What all of them are together ([`together`]) depends on what is asked. `holds`: none may run on this side. `lets go`: each may.
//!
//! | the side | some of them | together | because |
//! | --- | --- | --- | --- |
//! | source, holds | run | Running | the destination has not what runs here: it is given up, or frozen again |
//! | | are gone, none runs | Absent | the destination may have the only copy of those: the source does not give up by itself any more |
//! | destination, holds | are gone or broken | Broken | one that is missing makes the others worthless: all are made anew, or none runs here. Absent if all are gone |
//! | | run, the others are frozen | Running | somebody has let one go without a right to |
//! | either, lets go | are broken, the others frozen | Broken | none has run: all can be made anew |
//! | | are frozen or broken | Frozen | one that ran or has ended is not made anew; the others are still to be let go |
//! | | run, the others have ended | Running | |
//!
//! Of one container this is what its own tree is.

use std::collections::HashSet;

use super::handoff::{Recorded, Side, Tree};
use crate::engine::ContainerId;
use crate::{Error, ErrorKind, Result};

/// So many containers move together at most.
pub const MOST: usize = 64;

/// So long are their ids together at most, for they stand in one entry of the journal, with commas between them, which no id has.
const NAMES: usize = 2048;

/// Whether what was written down last lets the containers run on this side.
const fn lets_go(side: Side, last: Option<Recorded>) -> bool {
    match side {
        Side::Source => matches!(last, Some(Recorded::Aborted | Recorded::Fenced(Side::Destination))),
        Side::Destination => matches!(last, Some(Recorded::Live)),
    }
}

/// What the trees of all members are together, for a side that has written this down last.
pub fn together(side: Side, last: Option<Recorded>, trees: &[Tree]) -> Tree {
    let any = |tree| trees.contains(&tree);
    let all = |among: &[Tree]| trees.iter().all(|tree| among.contains(tree));
    match side {
        _ if all(&[Tree::Absent]) => Tree::Absent,
        _ if lets_go(side, last) => match () {
            () if any(Tree::Broken) && all(&[Tree::Broken, Tree::Frozen]) => Tree::Broken,
            () if any(Tree::Frozen) || any(Tree::Broken) => Tree::Frozen,
            () => Tree::Running,
        },
        Side::Source if any(Tree::Running) => Tree::Running,
        Side::Source if any(Tree::Absent) => Tree::Absent,
        Side::Destination if any(Tree::Absent) => Tree::Broken,
        _ if any(Tree::Broken) => Tree::Broken,
        _ if any(Tree::Running) => Tree::Running,
        _ => Tree::Frozen,
    }
}

/// Makes sure that these can move together.
///
/// # Errors
/// [`ErrorKind::InvalidInput`]: one is named twice, there are none or too many, or their names are too long.
pub(super) fn require_group(ids: &[ContainerId]) -> Result<()> {
    let refuse = |message: String, hint: &str| {
        Err(Error::new(ErrorKind::InvalidInput, message).with_hint(hint.to_owned()))
    };
    let mut seen = HashSet::new();
    if let Some(twice) = ids.iter().find(|id| !seen.insert(id.as_str())) {
        return refuse(format!("container {twice} is named twice"), "name each container once");
    }
    let hint = "move them in several migrations";
    if ids.is_empty() || ids.len() > MOST {
        return refuse(format!("{} containers cannot move together: at most {MOST} can", ids.len()), hint);
    }
    let names = written(ids).len();
    if names > NAMES {
        return refuse(format!("the ids of the containers have {names} bytes, and may have {NAMES}"), hint);
    }
    Ok(())
}

/// Does this with each, whatever has come of the others. Of several errors the first one has the others beside it.
///
/// # Errors
/// What could not be done.
pub(super) fn each<T>(all: impl IntoIterator<Item = T>, what: impl FnMut(T) -> Result<()>) -> Result<()> {
    let mut errors = all.into_iter().map(what).filter_map(Result::err).collect::<Vec<_>>().into_iter();
    errors.next().map_or(Ok(()), |first| Err(first.with_cleanup(errors)))
}

/// The ids as one text, for a journal.
pub(super) fn written(ids: &[ContainerId]) -> String {
    ids.iter().map(ContainerId::as_str).collect::<Vec<_>>().join(",")
}

/// The ids of such a text.
///
/// # Errors
/// When it is none.
pub(super) fn read(text: &str) -> Result<Vec<ContainerId>> {
    text.split(',').map(str::parse).collect()
}

/// The containers for a person, with what is said of one of them, or of several: `container web goes on here`.
pub(super) fn said(ids: &[ContainerId], of_one: &str, of_several: &str) -> String {
    match ids {
        [id] => format!("container {id} {of_one}"),
        ids => format!("containers {} {of_several}", written(ids).replace(',', ", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREES: [Tree; 4] = [Tree::Absent, Tree::Frozen, Tree::Broken, Tree::Running];

    fn lasts() -> impl Iterator<Item = Option<Recorded>> {
        use Recorded::{Aborted, Begun, Committed, Done, Fenced, Live, Prepared, Ready};
        let all = [Begun, Prepared, Ready, Committed, Live, Done, Aborted];
        let fenced = [Fenced(Side::Source), Fenced(Side::Destination)];
        all.into_iter().chain(fenced).map(Some).chain([None])
    }

    #[test]
    fn one_container_is_what_its_tree_is() {
        for side in [Side::Source, Side::Destination] {
            for last in lasts() {
                for tree in TREES {
                    assert_eq!(together(side, last, &[tree]), tree, "{side} {last:?}");
                    assert_eq!(together(side, last, &[tree; 3]), tree, "{side} {last:?}");
                }
            }
        }
    }

    #[test]
    fn it_does_not_matter_in_which_order_they_are() {
        for side in [Side::Source, Side::Destination] {
            for last in lasts() {
                for one in TREES {
                    for other in TREES {
                        let mixed = together(side, last, &[one, other]);
                        assert_eq!(mixed, together(side, last, &[other, one, one]), "{side} {last:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_source_that_holds_them_gives_none_up_that_may_be_the_only_one() {
        use Tree::{Absent, Broken, Frozen, Running};
        for last in [Recorded::Begun, Recorded::Prepared, Recorded::Committed] {
            let of = |trees: &[Tree]| together(Side::Source, Some(last), trees);
            assert_eq!(of(&[Frozen, Absent]), Absent);
            assert_eq!(of(&[Frozen, Running]), Running);
            assert_eq!(of(&[Absent, Running]), Running);
            assert_eq!(of(&[Frozen, Broken]), Broken);
        }
    }

    #[test]
    fn a_destination_that_holds_them_has_all_or_none() {
        use Tree::{Absent, Broken, Frozen, Running};
        for last in
            [None, Some(Recorded::Ready), Some(Recorded::Committed), Some(Recorded::Fenced(Side::Source))]
        {
            let of = |trees: &[Tree]| together(Side::Destination, last, trees);
            assert_eq!(of(&[Frozen, Absent]), Broken);
            assert_eq!(of(&[Frozen, Broken]), Broken);
            assert_eq!(of(&[Running, Absent]), Broken);
            assert_eq!(of(&[Running, Broken]), Broken);
            assert_eq!(of(&[Frozen, Running]), Running);
        }
    }

    #[test]
    fn whoever_lets_them_go_is_done_when_none_is_left() {
        use Tree::{Absent, Broken, Frozen, Running};
        for (side, last) in [
            (Side::Source, Recorded::Aborted),
            (Side::Source, Recorded::Fenced(Side::Destination)),
            (Side::Destination, Recorded::Live),
        ] {
            let of = |trees: &[Tree]| together(side, Some(last), trees);
            assert_eq!(of(&[Frozen, Absent]), Frozen);
            assert_eq!(of(&[Frozen, Running]), Frozen);
            assert_eq!(of(&[Running, Absent]), Running);
            // None has run yet.
            assert_eq!(of(&[Broken, Frozen]), Broken);
            // What has run, or has ended after it did, is not made anew.
            assert_eq!(of(&[Broken, Running]), Frozen);
            assert_eq!(of(&[Broken, Absent]), Frozen);
        }
    }

    #[test]
    fn who_is_named_twice_or_too_many_is_refused() {
        let ids = |count: usize, longer: usize| -> Vec<ContainerId> {
            (0..count).map(|n| format!("{n}{}", "x".repeat(longer)).parse().expect("an id")).collect()
        };
        require_group(&ids(MOST, 20)).expect("as many as may be");
        for refused in [ids(0, 0), ids(MOST + 1, 0), ids(20, 200), [ids(2, 0), ids(1, 0)].concat()] {
            assert_eq!(require_group(&refused).expect_err("refused").kind(), ErrorKind::InvalidInput);
        }
        let three = ids(3, 0);
        assert_eq!(read(&written(&three)).expect("its own text"), three);
        read("a,,b").expect_err("no id");
        assert_eq!(said(&three, "goes", "go"), "containers 0, 1, 2 go");
        assert_eq!(said(&ids(1, 0), "goes", "go"), "container 0 goes");
    }
}
