// SPDX-License-Identifier: Apache-2.0
//! Users, groups and capabilities, different from process to process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::getpid;

use super::proc::status;
use super::{Child, Made, made, path, sys};
use crate::lifecycle::{Checked, During as _, expect_eq};

super::exhibits![capability_sets, ambient_capabilities, bounding_set, user_and_groups, file_system_user];

const CHOWN: u32 = 0;
const KILL: u32 = 5;
const BIND: u32 = 10;

fn capabilities() -> Result<String, String> {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let sets = sets.iter().map(|set| status(getpid(), set)).collect::<Result<Vec<_>, _>>()?;
    Ok(sets.iter().map(|set| set.trim_start_matches('0')).collect::<Vec<_>>().join(","))
}

/// A child that set its sets, and its parent, which keeps its own.
fn with(set: impl FnOnce() -> Checked, must_be: &str) -> Made {
    let own = capabilities()?;
    let mut child = Child::start(move || {
        set()?;
        Ok(|_: &str| capabilities())
    })?;
    let bounding = own.split(',').nth(3).unwrap_or_default();
    let must_be = must_be.replace("BOUNDING", bounding);
    made(move || {
        child.expect("inheritable, permitted, effective, bounding, ambient", &must_be)?;
        expect_eq("the parent's", capabilities()?, own.clone())
    })
}

/// Permitted more than effective, and other inheritable ones.
fn capability_sets() -> Made {
    let set = || {
        let sets = [[1 << KILL, 1 << KILL | 1 << BIND, 1 << BIND], [0; 3]];
        sys::process::set_capabilities(sets).during("capset")?;
        expect_eq("capget", sys::process::capabilities().during("capget")?, sets)
    };
    with(set, "400,420,20,BOUNDING,")
}

/// Capabilities that an ordinary program would get.
fn ambient_capabilities() -> Made {
    let set = || {
        let sets = [[1 << BIND | 1 << KILL; 3], [0; 3]];
        sys::process::set_capabilities(sets).during("capset")?;
        sys::process::raise_ambient(BIND.into()).during("PR_CAP_AMBIENT_RAISE")
    };
    with(set, "420,420,420,BOUNDING,400")
}

/// What can never be had again: all but three.
fn bounding_set() -> Made {
    let set = || {
        for capability in (0..=40).filter(|c| ![CHOWN, KILL, BIND].contains(c)) {
            sys::process::set_attribute(libc::PR_CAPBSET_DROP, capability.into())
                .during("PR_CAPBSET_DROP")?;
        }
        sys::process::set_capabilities([[1 << BIND, 1 << BIND, 0], [0; 3]]).during("capset")
    };
    with(set, ",400,400,421,")
}

fn ids() -> Result<String, String> {
    let lines = ["Uid", "Gid", "Groups"].map(|key| status(getpid(), key));
    Ok(lines.into_iter().collect::<Result<Vec<_>, _>>()?.join(","))
}

/// Real, effective and saved ids that all differ, groups, and a file that such a one makes.
fn user_and_groups() -> Made {
    let directory = path("open");
    fs::create_dir_all(&directory).during("mkdir")?;
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        &directory,
        nix::sys::stat::Mode::from_bits_retain(0o777),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .during("chmod")?;
    let own = ids()?;
    let mut child = Child::start(move || {
        sys::process::become_user([101, 102, 103], [201, 202, 203], &[301, 302]).during("setresuid")?;
        Ok(move |_: &str| {
            let at = directory.join("file");
            fs::write(&at, "").during("create")?;
            let made = fs::metadata(&at).during("stat")?;
            fs::remove_file(&at).during("unlink")?;
            Ok(format!("{},{} {}", ids()?, made.uid(), made.gid()))
        })
    })?;
    made(move || {
        child.expect("ids, and a file's", "101 102 103 102,201 202 203 202,301 302,102 202")?;
        expect_eq("the parent's", ids()?, own.clone())
    })
}

/// The user that files are opened as, and nothing else.
fn file_system_user() -> Made {
    super::proc::of_a_child(
        || {
            sys::process::set_fs_user(77);
            Ok(())
        },
        || status(getpid(), "Uid"),
        "0 0 0 77",
    )
}
