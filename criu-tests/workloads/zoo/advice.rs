// SPDX-License-Identifier: Apache-2.0
//! What can be set for a mapping or for all mappings of a process: protection, locks, advice.

use super::held::{content, same_bytes};
use super::memory::{BOTH, PAGE, private, same};
use super::sys::memory::Map;
use super::{Made, made};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![
    protection_of_parts,
    content_that_is_not_accessible,
    stack_that_grows,
    locked_memory,
    memory_locked_on_fault,
    all_memory_locked,
    not_for_children,
    wiped_for_children,
    not_in_core_dumps,
    huge_pages_if_possible,
    no_huge_pages,
    no_huge_pages_for_the_process,
    pages_that_may_be_merged,
    read_ahead,
    name_of_a_mapping,
    guard_pages,
    protection_keys,
    merging_for_the_process,
];

/// What smaps says of one mapping.
pub(super) struct Area {
    head: String,
    fields: Vec<(String, String)>,
}

impl Area {
    /// The mapping in which this address lies.
    pub(super) fn at(address: usize) -> Result<Self, String> {
        let text = super::proc::text("/proc/self/smaps")?;
        let mut lines = text.lines().skip_while(|line| !range_of(line).is_some_and(|r| r.contains(&address)));
        let head = lines.next().ok_or_else(|| format!("nothing is mapped at {address:x}"))?.to_owned();
        let fields =
            lines.take_while(|line| range_of(line).is_none()).filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        Ok(Self { head, fields })
    }

    fn field(&self, key: &str) -> Result<&str, String> {
        let found = self.fields.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str()).ok_or_else(|| format!("smaps has no {key}"))
    }

    /// Kilobytes.
    pub(super) fn number(&self, key: &str) -> Result<u64, String> {
        self.field(key)?.trim_end_matches(" kB").parse().during(key)
    }

    /// Whether the mapping has this flag of two letters.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.field("VmFlags").is_ok_and(|flags| flags.split(' ').any(|one| one == flag))
    }

    /// `rwxp`.
    fn permissions(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

fn range_of(line: &str) -> Option<std::ops::Range<usize>> {
    let (begin, end) = line.split(' ').next()?.split_once('-')?;
    Some(usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// A mapping that was given this advice, and then has this flag.
fn advised(advice: i32, flag: &'static str) -> Made {
    let map = private(8)?;
    map.advise(0, map.length(), advice).during("madvise")?;
    flagged(map, flag)
}

fn flagged(map: Map, flag: &'static str) -> Made {
    made(move || {
        expect_eq(&format!("flag {flag}"), Area::at(map.at())?.has(flag), true)?;
        same(&map)
    })
}

/// Neighbours of one mapping, each with another protection.
fn protection_of_parts() -> Made {
    let map = private(4)?;
    let table = [
        (0, BOTH, "rw-p"),
        (1, libc::PROT_READ, "r--p"),
        (2, libc::PROT_READ | libc::PROT_EXEC, "r-xp"),
        (3, libc::PROT_NONE, "---p"),
    ];
    for (page, protection, _) in table {
        map.protect(page * PAGE, PAGE, protection).during("mprotect")?;
    }
    made(move || {
        for (page, protection, permissions) in table {
            let area = Area::at(map.at() + page * PAGE)?;
            expect_eq("permissions", area.permissions(), permissions)?;
            let may = |result: std::io::Result<()>| result.map_err(|e| e.raw_os_error());
            let must = |right: i32| if protection & right != 0 { Ok(()) } else { Err(Some(libc::EFAULT)) };
            let byte = content(map.length())[page * PAGE];
            expect_eq("a read", may(map.read(page * PAGE, 1).map(drop)), must(libc::PROT_READ))?;
            expect_eq("a write", may(map.write(page * PAGE, &[byte])), must(libc::PROT_WRITE))?;
        }
        Ok(())
    })
}

/// Nobody may read it now, but it is there.
fn content_that_is_not_accessible() -> Made {
    let map = private(16)?;
    map.protect(0, map.length(), libc::PROT_NONE).during("mprotect")?;
    made(move || {
        expect_eq("permissions", Area::at(map.at())?.permissions(), "---p")?;
        let refused = map.read(0, 1).err().and_then(|e| e.raw_os_error());
        expect_eq("a read", refused, Some(libc::EFAULT))?;
        map.protect(0, map.length(), libc::PROT_READ).during("mprotect")?;
        same(&map)?;
        map.protect(0, map.length(), libc::PROT_NONE).during("mprotect")
    })
}

/// A mapping that becomes larger when somebody touches what is below it.
fn stack_that_grows() -> Made {
    // Room below it, so that nothing is in its way.
    let room = Map::anonymous(256 * PAGE, libc::PROT_NONE, libc::MAP_PRIVATE).during("mmap")?;
    let flags = libc::MAP_PRIVATE | libc::MAP_GROWSDOWN;
    let stack = Map::anonymous(4 * PAGE, BOTH, flags).during("mmap")?;
    let top = Map::of_address(room.at() + room.length() - 4 * PAGE, 4 * PAGE);
    let stack = stack.moved_over(&top).during("mremap")?;
    room.unmap(0, room.length() - stack.length()).during("munmap")?;
    stack.write(0, &content(4 * PAGE)).during("write")?;
    let mut depth = 0;
    made(move || {
        same(&stack)?;
        expect_eq("flag of growing", Area::at(stack.at())?.has("gd"), true)?;
        depth = (depth + 1) % 100;
        // By a store: the kernel does not let a stack grow for another's write.
        let below = Map::of_address(stack.at() - depth * PAGE, PAGE);
        below.touch(0, 7);
        same_bytes(&below.read(0, 1).during("read")?, &[7])
    })
}

/// Never swapped.
fn locked_memory() -> Made {
    let map = private(8)?;
    map.lock(0).during("mlock")?;
    made(move || {
        let area = Area::at(map.at())?;
        expect_eq("flag of locked memory", area.has("lo"), true)?;
        expect_eq("kilobytes locked", area.number("Locked")?, 32)?;
        same(&map)
    })
}

/// Locked page by page, as they are touched.
fn memory_locked_on_fault() -> Made {
    let map = Map::anonymous(64 * PAGE, BOTH, libc::MAP_PRIVATE).during("mmap")?;
    map.lock(libc::MLOCK_ONFAULT).during("mlock2")?;
    map.write(0, &content(PAGE)).during("write")?;
    made(move || {
        let area = Area::at(map.at())?;
        expect_eq("flag of locked memory", area.has("lo"), true)?;
        expect_eq("kilobytes that are there", area.number("Rss")?, 4)?;
        same_bytes(&map.read(0, PAGE).during("read")?, &content(PAGE))
    })
}

/// What is mapped later is locked, too.
fn all_memory_locked() -> Made {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).during("mlockall")?;
    let early = private(4)?;
    made(move || {
        expect_eq("an old mapping is locked", Area::at(early.at())?.has("lo"), true)?;
        same(&early)?;
        let late = private(4)?;
        expect_eq("a new mapping is locked", Area::at(late.at())?.has("lo"), true)?;
        late.unmap(0, late.length()).during("munmap")
    })
}

/// Of memory that was advised, what a child made now finds there.
fn of_children(advice: i32, flag: &'static str, found: &'static str) -> Made {
    let map = private(4)?;
    map.advise(0, map.length(), advice).during("madvise")?;
    made(move || {
        expect_eq(&format!("flag {flag}"), Area::at(map.at())?.has(flag), true)?;
        same(&map)?;
        let (at, length) = (map.at(), map.length());
        let code = crate::sys::fork(move || match Map::of_address(at, length).read(0, 1) {
            Ok(byte) => i32::from(byte[0]),
            Err(e) => 100 + e.raw_os_error().unwrap_or(0),
        });
        let pid = code.during("fork")?;
        let ended = nix::sys::wait::waitpid(pid, None).during("waitpid")?;
        expect_eq(
            "what the child found",
            format!("{ended:?}").as_str(),
            format!("Exited(Pid({pid}), {found})").as_str(),
        )
    })
}

/// A child does not have it.
fn not_for_children() -> Made {
    of_children(libc::MADV_DONTFORK, "dc", "114")
}

/// A child finds zeroes.
fn wiped_for_children() -> Made {
    of_children(libc::MADV_WIPEONFORK, "wf", "0")
}

/// `MADV_DONTDUMP`.
fn not_in_core_dumps() -> Made {
    advised(libc::MADV_DONTDUMP, "dd")
}

/// `MADV_HUGEPAGE`.
fn huge_pages_if_possible() -> Made {
    advised(libc::MADV_HUGEPAGE, "hg")
}

/// `MADV_NOHUGEPAGE`.
fn no_huge_pages() -> Made {
    advised(libc::MADV_NOHUGEPAGE, "nh")
}

/// `PR_SET_THP_DISABLE`.
fn no_huge_pages_for_the_process() -> Made {
    let get = || nix::sys::prctl::get_thp_disable().during("PR_GET_THP_DISABLE");
    nix::sys::prctl::set_thp_disable(true).during("PR_SET_THP_DISABLE")?;
    made(move || expect_eq("huge pages are off", get()?, true))
}

/// `MADV_MERGEABLE`.
fn pages_that_may_be_merged() -> Made {
    advised(libc::MADV_MERGEABLE, "mg")
}

/// `MADV_SEQUENTIAL` and `MADV_RANDOM`.
fn read_ahead() -> Made {
    let maps = [(libc::MADV_SEQUENTIAL, "sr"), (libc::MADV_RANDOM, "rr")].map(|(advice, flag)| {
        let map = private(4)?;
        map.advise(0, map.length(), advice).during("madvise")?;
        Ok((map, flag))
    });
    let maps = maps.into_iter().collect::<Result<Vec<_>, String>>()?;
    made(move || {
        maps.iter().try_for_each(|(map, flag)| {
            expect_eq(&format!("flag {flag}"), Area::at(map.at())?.has(flag), true)?;
            same(map)
        })
    })
}

/// `PR_SET_VMA_ANON_NAME`.
fn name_of_a_mapping() -> Made {
    let map = private(4)?;
    const PR_SET_VMA: i64 = 0x5356_4d41;
    let (at, length, name) = (map.at() as i64, map.length() as i64, c"exhibit");
    let prctl = [libc::SYS_prctl, PR_SET_VMA, 0, at, length, name.as_ptr() as i64, 0];
    crate::sys::call(prctl).during("PR_SET_VMA_ANON_NAME")?;
    made(move || {
        let head = Area::at(map.at())?.head;
        expect_eq("name", head.ends_with("[anon:exhibit]"), true).map_err(|why| format!("{why}: {head}"))?;
        same(&map)
    })
}

/// `MADV_GUARD_INSTALL`: pages of a mapping that fault.
fn guard_pages() -> Made {
    const MADV_GUARD_INSTALL: i32 = 102;
    let map = private(8)?;
    map.advise(3 * PAGE, PAGE, MADV_GUARD_INSTALL).during("madvise")?;
    made(move || {
        let refused = map.read(3 * PAGE, 1).err().and_then(|e| e.raw_os_error());
        expect_eq("a read of the guard", refused, Some(libc::EFAULT))?;
        same_bytes(&map.read(0, 3 * PAGE).during("read")?, &content(8 * PAGE)[..3 * PAGE])?;
        same_bytes(&map.read(4 * PAGE, 4 * PAGE).during("read")?, &content(8 * PAGE)[4 * PAGE..])
    })
}

/// A mapping with a protection key of its own (pkey_mprotect(2)).
fn protection_keys() -> Made {
    let map = private(4)?;
    let call = |numbers| crate::sys::call(numbers);
    let key = call([libc::SYS_pkey_alloc, 0, 0, 0, 0, 0, 0]).during("pkey_alloc")?;
    let (at, length) = (map.at() as i64, map.length() as i64);
    call([libc::SYS_pkey_mprotect, at, length, BOTH.into(), key, 0, 0]).during("pkey_mprotect")?;
    made(move || {
        expect_eq("key", Area::at(map.at())?.number("ProtectionKey")?, key.cast_unsigned())?;
        same(&map)
    })
}

/// `PR_SET_MEMORY_MERGE`.
fn merging_for_the_process() -> Made {
    const SET: i64 = 67;
    const GET: i64 = 68;
    let call = |number, value| crate::sys::call([libc::SYS_prctl, number, value, 0, 0, 0, 0]);
    call(SET, 1).during("PR_SET_MEMORY_MERGE")?;
    made(move || expect_eq("merging is on", call(GET, 0).during("PR_GET_MEMORY_MERGE")?, 1))
}
