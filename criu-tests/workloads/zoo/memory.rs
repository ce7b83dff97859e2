// SPDX-License-Identifier: Apache-2.0
//! Mappings of all kinds.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use nix::fcntl::OFlag;

use super::held::{content, new_file, open, same_bytes};
use super::sys::memory::{self, Map};
use super::{Child, Made, made, path};
use crate::lifecycle::{Checked, During as _, expect_eq};
use crate::sys;

super::exhibits![
    shared_anonymous,
    shared_anonymous_of_grandchildren,
    private_with_holes,
    private_of_parent_and_child,
    mapping_that_was_moved,
    mapping_with_unmapped_middle,
    huge_empty_mapping,
    data_segment,
    code_made_at_run_time,
    private_file_with_changes,
    shared_file,
    shared_file_without_a_name,
    private_file_behind_its_end,
    huge_pages_private,
    huge_pages_shared,
    functions_of_the_kernel,
    asynchronous_reads,
    asynchronous_reads_that_are_done,
    zero_device,
    what_the_kernel_told_at_the_start,
    mapping_that_changes_all_the_time,
];

pub(super) const PAGE: usize = 4096;
pub(super) const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A private mapping of this many pages, full of [`content`].
pub(super) fn private(pages: usize) -> Result<Map, String> {
    let map = Map::anonymous(pages * PAGE, BOTH, libc::MAP_PRIVATE).during("mmap")?;
    map.write(0, &content(map.length())).during("write")?;
    Ok(map)
}

/// The mapping is [`content`] from end to end.
pub(super) fn same(map: &Map) -> Checked {
    same_bytes(&map.read(0, map.length()).during("read")?, &content(map.length()))
}

/// A page that two processes share: what one writes the other reads.
fn shared_anonymous() -> Made {
    let words = sys::shared_words(512).during("mmap")?;
    let mut child = Child::start(move || {
        let add = |word: &std::sync::atomic::AtomicU64| word.fetch_add(1, Ordering::SeqCst);
        Ok(move |_: &str| Ok(words.iter().map(add).sum::<u64>().to_string()))
    })?;
    let mut round = 0;
    made(move || {
        child.expect("sum of all words", &(round * 512).to_string())?;
        round += 1;
        let wrong = words.iter().filter(|word| word.load(Ordering::SeqCst) != round).count();
        expect_eq("words that the child did not reach", wrong, 0)
    })
}

/// Three generations, of which the middle one has only a part.
fn shared_anonymous_of_grandchildren() -> Made {
    let map = Map::anonymous(8 * PAGE, BOTH, libc::MAP_SHARED).during("mmap")?;
    let (at, length) = (map.at(), map.length());
    let mut child = Child::start(move || {
        let mut grandchild = Child::start(move || {
            let map = Map::of_address(at, length);
            Ok(move |text: &str| map.write(7 * PAGE, text.as_bytes()).during("write").map(|()| String::new()))
        })?;
        Map::of_address(at, length).unmap(0, 6 * PAGE).during("munmap")?;
        Ok(move |text: &str| grandchild.ask(text))
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        let text = format!("{round:08}");
        child.check(&text)?;
        same_bytes(&map.read(7 * PAGE, 8).during("read")?, text.as_bytes())
    })
}

/// Pages with content, pages that were only read, pages that nobody has touched.
fn private_with_holes() -> Made {
    let map = Map::anonymous(64 * PAGE, BOTH, libc::MAP_PRIVATE).during("mmap")?;
    for page in (0..64).step_by(4) {
        map.write(page * PAGE, &content(PAGE)).during("write")?;
        map.read((page + 1) * PAGE, PAGE).during("read")?;
    }
    made(move || {
        for page in 0..64 {
            let expected = if page % 4 == 0 { content(PAGE) } else { vec![0; PAGE] };
            // Reading would touch the ones that nobody has.
            if page % 4 < 2 {
                same_bytes(&map.read(page * PAGE, PAGE).during("read")?, &expected)?;
            }
        }
        let resident = super::advice::Area::at(map.at() + 2 * PAGE)?.number("Rss")?;
        expect_eq("kilobytes that are there", resident <= 2 * 16 * 4, true)
    })
}

/// Copied when written to: parent and child have the same pages, but for those that one of them changed.
fn private_of_parent_and_child() -> Made {
    let map = private(16)?;
    let (at, length) = (map.at(), map.length());
    let mut child = Child::start(move || {
        let map = Map::of_address(at, length);
        map.write(3 * PAGE, b"child").during("write")?;
        Ok(move |_: &str| {
            let mut expected = content(length);
            expected[3 * PAGE..3 * PAGE + 5].copy_from_slice(b"child");
            same_bytes(&map.read(0, length).during("read")?, &expected).map(|()| String::new())
        })
    })?;
    map.write(5 * PAGE, b"parent").during("write")?;
    made(move || {
        child.check("all pages")?;
        let mut expected = content(length);
        expected[5 * PAGE..5 * PAGE + 6].copy_from_slice(b"parent");
        same_bytes(&map.read(0, length).during("read")?, &expected)
    })
}

/// mremap(2) to another place.
fn mapping_that_was_moved() -> Made {
    let place = Map::anonymous(16 * PAGE, libc::PROT_NONE, libc::MAP_PRIVATE).during("mmap")?;
    let map = private(16)?.moved_over(&place).during("mremap")?;
    made(move || {
        expect_eq("address", map.at(), place.at())?;
        same(&map)
    })
}

/// In each step a child looks at all of it, it moves, a page loses its content. In some of it a child finds zeros.
fn mapping_that_changes_all_the_time() -> Made {
    const PAGES: usize = 64;
    let mut map = private(PAGES)?;
    let wiped = private(8)?;
    wiped.advise(0, wiped.length(), libc::MADV_WIPEONFORK).during("madvise")?;
    let mut step = 0;
    made(move || {
        step += 1;
        let child = sys::fork(|| {
            let zeros = wiped.read(0, wiped.length()).during("read");
            let is_good = same(&map).and(zeros).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0));
            i32::from(!is_good)
        })
        .during("fork")?;
        let place = Map::anonymous(map.length(), libc::PROT_NONE, libc::MAP_PRIVATE).during("mmap")?;
        map = map.moved_over(&place).during("mremap")?;
        let (page, expected) = (step * 7 % PAGES * PAGE, content(map.length()));
        map.advise(page, PAGE, libc::MADV_DONTNEED).during("madvise")?;
        same_bytes(&map.read(page, PAGE).during("read")?, &[0; PAGE])?;
        map.write(page, &expected[page..page + PAGE]).during("write")?;
        same(&map)?;
        same(&wiped)?;
        let ended = nix::sys::wait::waitpid(child, None).during("waitpid")?;
        expect_eq("the child", ended, nix::sys::wait::WaitStatus::Exited(child, 0))
    })
}

/// What is not mapped faults.
fn mapping_with_unmapped_middle() -> Made {
    let map = private(9)?;
    map.unmap(4 * PAGE, PAGE).during("munmap")?;
    made(move || {
        let fault = map.read(4 * PAGE, 1).err().and_then(|e| e.raw_os_error());
        expect_eq("a read of the middle", fault, Some(libc::EFAULT))?;
        same_bytes(&map.read(5 * PAGE, PAGE).during("read")?, &content(9 * PAGE)[5 * PAGE..6 * PAGE])
    })
}

/// A quarter of a terabyte, of which two pages are used.
fn huge_empty_mapping() -> Made {
    const LENGTH: usize = 256 << 30;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let map = Map::anonymous(LENGTH, BOTH, flags).during("mmap")?;
    for offset in [0, LENGTH - PAGE] {
        map.write(offset, &content(PAGE)).during("write")?;
    }
    made(move || {
        for offset in [0, LENGTH - PAGE] {
            same_bytes(&map.read(offset, PAGE).during("read")?, &content(PAGE))?;
        }
        same_bytes(&map.read(LENGTH / 2, 16).during("read")?, &[0; 16])
    })
}

/// What brk(2) gave.
fn data_segment() -> Made {
    let map = Map::of_break(16 * PAGE).during("sbrk")?;
    map.write(0, &content(map.length())).during("write")?;
    made(move || {
        same(&map)?;
        let more = Map::of_break(PAGE).during("sbrk")?;
        expect_eq("it grows where it ended", more.at() >= map.at() + map.length(), true)?;
        more.write(0, b"more").during("write")
    })
}

/// A page that was written as data and is run.
fn code_made_at_run_time() -> Made {
    const ANSWER: u32 = 0x2a00_002a;
    let map = Map::anonymous(PAGE, BOTH, libc::MAP_PRIVATE).during("mmap")?;
    map.write(0, &memory::code_that_gives(ANSWER)).during("write")?;
    map.protect(0, PAGE, libc::PROT_READ | libc::PROT_EXEC).during("mprotect")?;
    made(move || {
        let refused = map.write(0, b"x").err().and_then(|e| e.raw_os_error());
        expect_eq("a write to the code", refused, Some(libc::EFAULT))?;
        expect_eq("what the code gives", map.call(), ANSWER)
    })
}

/// Pages of a file, two of which are this process's own.
fn private_file_with_changes() -> Made {
    let at = path("mapped");
    fs::write(&at, content(8 * PAGE)).during("write")?;
    let file = open(&at, OFlag::O_RDONLY)?;
    let map = Map::of_file(file.as_fd(), (0, 8 * PAGE), BOTH, libc::MAP_PRIVATE).during("mmap")?;
    drop(file);
    let mut expected = content(8 * PAGE);
    for page in [2, 5] {
        expected[page * PAGE..page * PAGE + 4].copy_from_slice(b"mine");
        map.write(page * PAGE, b"mine").during("write")?;
    }
    made(move || {
        same_bytes(&map.read(0, 8 * PAGE).during("read")?, &expected)?;
        same_bytes(&fs::read(&at).during("read")?, &content(8 * PAGE))
    })
}

/// What is written to the mapping is in the file.
fn shared_file() -> Made {
    let at = path("mapped");
    fs::write(&at, content(8 * PAGE)).during("write")?;
    let file = open(&at, OFlag::O_RDWR)?;
    let map = Map::of_file(file.as_fd(), (PAGE as i64, PAGE), BOTH, libc::MAP_SHARED).during("mmap")?;
    drop(file);
    let mut round = 0_u64;
    made(move || {
        round += 1;
        map.write(16, &round.to_ne_bytes()).during("write")?;
        let bytes = fs::read(&at).during("read")?;
        expect_eq("size", bytes.len(), 8 * PAGE)?;
        same_bytes(&bytes[PAGE + 16..PAGE + 24], &round.to_ne_bytes())
    })
}

/// Only the mapping keeps the file alive; two processes have it.
fn shared_file_without_a_name() -> Made {
    let at = path("mapped");
    let file = new_file(&at)?;
    file.write_all_at(&content(8 * PAGE), 0).during("write")?;
    let map = Map::of_file(file.as_fd(), (0, 8 * PAGE), BOTH, libc::MAP_SHARED).during("mmap")?;
    fs::remove_file(&at).during("unlink")?;
    drop(file);
    let (at, length) = (map.at(), map.length());
    let mut child = Child::start(move || {
        let map = Map::of_address(at, length);
        Ok(move |text: &str| map.write(PAGE, text.as_bytes()).during("write").map(|()| String::new()))
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        let mut expected = content(length);
        expected[PAGE..PAGE + 8].copy_from_slice(format!("{round:08}").as_bytes());
        child.check(&format!("{round:08}"))?;
        same_bytes(&map.read(0, length).during("read")?, &expected)
    })
}

/// The last page of a file is not full, and the one behind it is none.
fn private_file_behind_its_end() -> Made {
    let at = path("mapped");
    fs::write(&at, content(PAGE + 100)).during("write")?;
    let file = open(&at, OFlag::O_RDONLY)?;
    let map = Map::of_file(file.as_fd(), (0, 3 * PAGE), BOTH, libc::MAP_PRIVATE).during("mmap")?;
    made(move || {
        let mut expected = content(PAGE + 100);
        expected.resize(2 * PAGE, 0);
        same_bytes(&map.read(0, 2 * PAGE).during("read")?, &expected)?;
        let fault = map.read(2 * PAGE, 1).err().and_then(|e| e.raw_os_error());
        expect_eq("a read behind the end", fault, Some(libc::EFAULT))
    })
}

fn huge_pages(kind: i32) -> Made {
    const LENGTH: usize = 2 << 20;
    let flags = kind | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    let map = Map::anonymous(LENGTH, BOTH, flags).during("mmap")?;
    map.write(LENGTH / 2, &content(PAGE)).during("write")?;
    made(move || {
        let area = super::advice::Area::at(map.at())?;
        expect_eq("kilobytes of a page", area.number("KernelPageSize")?, 2048)?;
        expect_eq("flag of huge pages", area.has("ht"), true)?;
        same_bytes(&map.read(LENGTH / 2, PAGE).during("read")?, &content(PAGE))
    })
}

/// Pages of two megabytes of this process alone.
fn huge_pages_private() -> Made {
    huge_pages(libc::MAP_PRIVATE)
}

/// Pages of two megabytes that a child would share.
fn huge_pages_shared() -> Made {
    huge_pages(libc::MAP_SHARED)
}

/// The time that the kernel's code in this process tells is the kernel's.
fn functions_of_the_kernel() -> Made {
    made(|| {
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME] {
            let times = memory::clocks(clock).during("clock_gettime")?;
            let [before, own, after] = times.map(|time| (time.tv_sec, time.tv_nsec));
            expect_eq("the vDSO's time is between two of the kernel's", before <= own && own <= after, true)
                .map_err(|why| format!("clock {clock}: {why}: {before:?} {own:?} {after:?}"))?;
        }
        let maps = super::proc::text("/proc/self/maps")?;
        expect_eq("there is one vDSO", maps.lines().filter(|line| line.ends_with("[vdso]")).count(), 1)
    })
}

/// A ring of asynchronous I/O (io_setup(2)) that was used and is used again.
fn asynchronous_reads() -> Made {
    let at = path("asynchronous");
    fs::write(&at, content(PAGE)).during("write")?;
    let file = open(&at, OFlag::O_RDONLY)?;
    let context = memory::aio_context(8).during("io_setup")?;
    let buffer = Map::anonymous(PAGE, BOTH, libc::MAP_PRIVATE).during("mmap")?;
    let mut number = 0;
    made(move || {
        number += 1;
        buffer.write(0, &[0; PAGE]).during("write")?;
        let (done, result) = memory::aio_read(context, file.as_fd(), &buffer, number).during("io_submit")?;
        expect_eq("number and result", (done, result), (number, PAGE as i64))?;
        same(&buffer)
    })
}

/// Reads that are done, and nobody has asked for their results.
fn asynchronous_reads_that_are_done() -> Made {
    let at = path("asynchronous");
    fs::write(&at, content(PAGE)).during("write")?;
    let file = open(&at, OFlag::O_RDONLY)?;
    let context = memory::aio_context(8).during("io_setup")?;
    let buffer = Map::anonymous(PAGE, BOTH, libc::MAP_PRIVATE).during("mmap")?;
    for number in 0..3 {
        memory::aio_submit(context, file.as_fd(), &buffer, number).during("io_submit")?;
    }
    let mut next = 0;
    made(move || {
        let (number, result) = memory::aio_take(context).during("io_getevents")?;
        expect_eq("number and result", (number, result), (next, PAGE as i64))?;
        memory::aio_submit(context, file.as_fd(), &buffer, next + 3).during("io_submit")?;
        next += 1;
        same(&buffer)
    })
}

/// Mapped twice: of this process alone, and shared with a child.
fn zero_device() -> Made {
    let zero = open(std::path::Path::new("/dev/zero"), OFlag::O_RDWR)?;
    let map = |kind| Map::of_file(zero.as_fd(), (0, 4 * PAGE), BOTH, kind).during("mmap");
    let (own, shared) = (map(libc::MAP_PRIVATE)?, map(libc::MAP_SHARED)?);
    own.write(0, &content(PAGE)).during("write")?;
    let (at, length) = (shared.at(), shared.length());
    let mut child = Child::start(move || {
        let theirs = Map::of_address(at, length);
        Ok(move |text: &str| theirs.write(PAGE, text.as_bytes()).during("write").map(|()| String::new()))
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        child.check(&format!("{round:08}"))?;
        same_bytes(&shared.read(PAGE, 8).during("read")?, format!("{round:08}").as_bytes())?;
        same_bytes(&own.read(0, PAGE).during("read")?, &content(PAGE))
    })
}

/// Arguments, environment, auxiliary vector, executable: what a process is known by.
fn what_the_kernel_told_at_the_start() -> Made {
    let files = ["cmdline", "environ", "auxv"].map(|name| format!("/proc/self/{name}"));
    let look = move || -> Result<Vec<Vec<u8>>, String> {
        files.iter().map(|file| fs::read(file).during(file)).collect()
    };
    let (before, executable) = (look()?, fs::read_link("/proc/self/exe").during("exe")?);
    made(move || {
        for (is, was) in look()?.iter().zip(&before) {
            same_bytes(is, was)?;
        }
        expect_eq("executable", &fs::read_link("/proc/self/exe").during("exe")?, &executable)
    })
}
