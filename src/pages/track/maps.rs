// SPDX-License-Identifier: Apache-2.0
//! What a memory is mapped to (`/proc/PID/maps`), read again and again through one descriptor: it is of the memory that the thread
//! had when it was opened, and says nothing any more when that is gone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::ops::Range;

use crate::sys::pagemap::Backing;

/// Mappings of one process: sixteen times of what the kernel allows without being told to (`vm.max_map_count`).
const MOST: usize = 1 << 20;
/// A line is as long as its path, in which each byte may be written as four.
const LINE: u64 = 32 << 10;

/// Mappings that are the kernel's own: CRIU makes them anew.
const KERNELS: [&[u8]; 3] = [b"[vdso]", b"[vsyscall]", b"[vvar"];

/// A private mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) range: Range<u64>,
    pub(super) backing: Backing,
}

/// The mappings of one memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Maps {
    /// Those whose pages are the process's own, or will be when it writes to them.
    pub(super) private: Vec<Area>,
    /// Those that others may write to as well.
    pub(super) shared: Vec<Range<u64>>,
    /// Where the kernel's code for programs is.
    pub(super) vdso: Option<Range<u64>>,
}

impl Maps {
    /// Reads them anew. None at all: the memory is gone.
    pub(super) fn read(mut file: &File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let mut lines = BufReader::with_capacity(64 << 10, file);
        let mut maps = Self::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = match io::Read::take(&mut lines, LINE).read_until(b'\n', &mut line) {
                // The process has ended.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(Self::default()),
                read => read?,
            };
            if read == 0 {
                return Ok(maps);
            }
            maps.add(&line)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a list of mappings"))?;
            if maps.private.len() + maps.shared.len() > MOST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "there are too many mappings"));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.private.is_empty() && self.shared.is_empty()
    }

    fn add(&mut self, line: &[u8]) -> Option<()> {
        let line = line.strip_suffix(b"\n")?;
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let range = std::str::from_utf8(words.next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        let shared = match words.next()?.get(3)? {
            b's' => true,
            b'p' => false,
            _ => return None,
        };
        // Offset and device are between.
        let backing = if words.nth(2)? == b"0" { Backing::Nothing } else { Backing::File };
        // A file's path begins with a slash.
        let name = words.next().unwrap_or_default();
        if name == b"[vdso]" {
            self.vdso = Some(range.clone());
        }
        if !KERNELS.iter().any(|kernels| name.starts_with(kernels)) {
            if shared {
                self.shared.push(range);
            } else {
                self.private.push(Area { range, backing });
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_shared_ones_are_told_apart() {
        let mut maps = Maps::default();
        for line in [
            "55d0c0000000-55d0c0001000 r-xp 00001000 fd:00 1234   /bin/[vdso] x\n",
            "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n",
            "7f0000200000-7f0000201000 rw-s 00000000 00:01 17     /memfd:a (deleted)\n",
            "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0      [stack]\n",
            "7ffd00100000-7ffd00104000 r--p 00000000 00:00 0      [vvar]\n",
            "7ffd00104000-7ffd00106000 r-xp 00000000 00:00 0      [vdso]\n",
        ] {
            maps.add(line.as_bytes()).expect(line);
        }
        let starts: Vec<_> = maps.private.iter().map(|area| (area.range.start, area.backing)).collect();
        let expected = [
            (0x55d0_c000_0000, Backing::File),
            (0x7f00_0000_0000, Backing::Nothing),
            (0x7ffd_0000_0000, Backing::Nothing),
        ];
        assert_eq!(starts, expected);
        assert_eq!(maps.shared.as_slice(), std::slice::from_ref(&(0x7f00_0020_0000..0x7f00_0020_1000)));
        assert_eq!(maps.vdso, Some(0x7ffd_0010_4000..0x7ffd_0010_6000));
        for line in ["", "\n", "1-2\n", "x-2 r-xp 0 0 0\n", "1-2 r-x? 0 0 0\n", "1-2 rw-p 0 0:0 0"] {
            assert!(maps.add(line.as_bytes()).is_none(), "{line:?}");
        }
    }

    #[test]
    fn ours_are_read_twice_through_one_descriptor() {
        let file = File::open("/proc/self/maps").expect("our own");
        let first = Maps::read(&file).expect("readable");
        assert!(!first.is_empty() && first.vdso.is_some());
        assert_eq!(Maps::read(&file).expect("readable").vdso, first.vdso);
    }
}
