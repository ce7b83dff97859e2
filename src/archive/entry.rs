// SPDX-License-Identifier: Apache-2.0
//! Owns one entry of a tar: its facts, and their form as a ustar header with PAX records where ustar is too small.
//!
//! ```text
//! ["x" header 512][PAX records, padded to 512]  header 512  data, padded to 512
//! ```
//! Formats: POSIX.1-2024 `pax`, "ustar Interchange Format" and "pax Extended Header". Must not know files or members.

use tar::{EntryType, Header};

/// Size of a tar block, in bytes.
pub(super) const BLOCK: u64 = 512;

/// Largest set of PAX records of one entry, in bytes, written or read.
pub(super) const PAX_MAX: u64 = 4 << 20;

/// Largest number in an octal field of 8 and of 12 bytes.
const OCTAL_8: u64 = 0o777_7777;
const OCTAL_12: u64 = 0o777_7777_7777;

/// Prefix of the PAX key that holds an extended attribute.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Xattr {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// An entry of a tar, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Path as it stands in the tar; a directory's ends in a slash.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of data that follow; 0 unless it is a file.
    pub(super) size: u64,
    /// Permission bits with set-id and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Last modification: seconds since 1970 and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Target of a symbolic or hard link.
    pub(super) link: Vec<u8>,
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<Xattr>,
}

impl Entry {
    /// An entry that is owned by root, private, and has no data.
    pub(super) fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            kind,
            size: 0,
            mode: if kind == Kind::Directory { 0o700 } else { 0o600 },
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// Bytes of data with their padding; `None` if that number does not exist.
    pub(super) fn padded_size(&self) -> Option<u64> {
        self.size.checked_next_multiple_of(BLOCK)
    }

    /// Appends the header blocks to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let records = self.pax_records();
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            set_bytes(&mut header.as_mut_bytes()[..100], b"PaxHeaders/entry");
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o600);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(records.len() as u64);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
        out.extend_from_slice(self.ustar_header().as_bytes());
    }

    /// The header in one block, whatever the size: a large one is in base 256, without a record. The path must fit.
    pub(super) fn encode_alone(&self) -> [u8; BLOCK as usize] {
        *self.ustar_header().as_bytes()
    }

    /// The main header. What does not fit is cut off here and complete in the PAX records.
    fn ustar_header(&self) -> Header {
        let mut header = Header::new_ustar();
        set_bytes(&mut header.as_mut_bytes()[..100], &self.path);
        set_bytes(&mut header.as_mut_bytes()[157..257], &self.link);
        header.set_entry_type(match self.kind {
            Kind::File => EntryType::Regular,
            Kind::HardLink => EntryType::Link,
            Kind::Symlink => EntryType::Symlink,
            Kind::Character => EntryType::Char,
            Kind::Block => EntryType::Block,
            Kind::Directory => EntryType::Directory,
            Kind::Fifo => EntryType::Fifo,
        });
        header.set_mode(self.mode);
        header.set_uid(u64::from(self.uid));
        header.set_gid(u64::from(self.gid));
        header.set_size(self.size);
        header.set_mtime(u64::try_from(self.mtime.0).unwrap_or(0));
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.set_device_major(self.device.0);
            ustar.set_device_minor(self.device.1);
        }
        header.set_cksum();
        header
    }

    fn pax_records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.path.len() > 100 {
            push_record(&mut out, b"path", &self.path);
        }
        if self.link.len() > 100 {
            push_record(&mut out, b"linkpath", &self.link);
        }
        for (key, value, max) in [
            ("size", self.size, OCTAL_12),
            ("uid", u64::from(self.uid), OCTAL_8),
            ("gid", u64::from(self.gid), OCTAL_8),
        ] {
            if value > max {
                push_record(&mut out, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        let (seconds, nanos) = self.mtime;
        if nanos != 0 || seconds < 0 || seconds as u64 > OCTAL_12 {
            push_record(&mut out, b"mtime", pax_time(seconds, nanos).as_bytes());
        }
        for xattr in &self.xattrs {
            push_record(&mut out, &[XATTR, &xattr.name].concat(), &xattr.value);
        }
        out
    }

    /// Reads a main header and the PAX records before it.
    ///
    /// # Errors
    /// What is wrong, for a sentence that begins with where.
    pub(super) fn decode(header: &Header, records: &[u8]) -> Result<Self, Malformed> {
        let kind = match header.entry_type() {
            EntryType::Regular => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            _ => return Err(Malformed("an entry of an unknown type")),
        };
        let number = |field: std::io::Result<u64>, name| field.map_err(|_| Malformed(name));
        let device = |field: std::io::Result<Option<u32>>| match kind {
            Kind::Character | Kind::Block => {
                field.ok().flatten().ok_or(Malformed("a device number that is not a number"))
            }
            _ => Ok(0),
        };
        let mut uid = number(header.uid(), "an owner that is not a number")?;
        let mut gid = number(header.gid(), "a group that is not a number")?;
        let seconds = number(header.mtime(), "a time that is not a number")?;
        let mut entry = Self {
            path: header.path_bytes().into_owned(),
            kind,
            size: number(header.entry_size(), "a size that is not a number")?,
            mode: header.mode().map_err(|_| Malformed("a mode that is not a number"))? & 0o7777,
            uid: 0,
            gid: 0,
            mtime: (i64::try_from(seconds).map_err(|_| Malformed("a time that is out of range"))?, 0),
            link: header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default(),
            device: (device(header.device_major())?, device(header.device_minor())?),
            xattrs: Vec::new(),
        };
        for record in Records(records) {
            let (key, value) = record?;
            match key {
                b"path" => entry.path = value.to_vec(),
                b"linkpath" => entry.link = value.to_vec(),
                b"size" => entry.size = decimal(value)?,
                b"uid" => uid = decimal(value)?,
                b"gid" => gid = decimal(value)?,
                b"mtime" => entry.mtime = parse_pax_time(value)?,
                _ if key.starts_with(b"GNU.sparse.") => return Err(Malformed("a sparse file map")),
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        entry.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
                    }
                }
            }
        }
        entry.uid = u32::try_from(uid).map_err(|_| Malformed("an owner that is out of range"))?;
        entry.gid = u32::try_from(gid).map_err(|_| Malformed("a group that is out of range"))?;
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), Malformed> {
        if self.path.is_empty() {
            return Err(Malformed("an entry without a name"));
        }
        if self.path.contains(&0) || self.link.contains(&0) {
            return Err(Malformed("a name with a NUL byte"));
        }
        if self.kind != Kind::File && self.size != 0 {
            return Err(Malformed("data for an entry that has none"));
        }
        if matches!(self.kind, Kind::Symlink | Kind::HardLink) && self.link.is_empty() {
            return Err(Malformed("a link without a target"));
        }
        Ok(())
    }
}

/// Why bytes are not a tar entry: what the tar holds instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Whether the header's checksum is right; every tar has it.
pub(super) fn checksum_is_right(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sum = |range: std::ops::Range<usize>| bytes[range].iter().map(|b| u32::from(*b)).sum::<u32>();
    header.cksum().is_ok_and(|expected| expected == sum(0..148) + 8 * u32::from(b' ') + sum(156..512))
}

fn set_bytes(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// Appends `<length> <key>=<value>\n`, where the length counts itself.
fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The records of a PAX header, in order.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split_record();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or(Malformed("a malformed PAX record")))
    }
}

impl<'a> Records<'a> {
    fn split_record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let blank = self.0.iter().take(21).position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&self.0[..blank]).ok()?).ok()?;
        let record = self.0.get(blank + 1..length)?.strip_suffix(b"\n")?;
        self.0 = &self.0[length..];
        let equals = record.iter().position(|b| *b == b'=')?;
        (equals > 0).then(|| (&record[..equals], &record[equals + 1..]))
    }
}

fn decimal(text: &[u8]) -> Result<u64, Malformed> {
    let malformed = Malformed("a PAX number that is not one");
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(malformed)
}

/// A time as PAX writes it. The fraction counts away from zero, ours counts forward.
fn pax_time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    let (seconds, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
    if nanos == 0 { format!("{sign}{seconds}") } else { format!("{sign}{seconds}.{nanos:09}") }
}

fn parse_pax_time(text: &[u8]) -> Result<(i64, u32), Malformed> {
    let malformed = Malformed("a PAX time that is not one");
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let point = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i128::from(decimal(&text[..point]).map_err(|_| malformed)?);
    let mut nanos = 0_i128;
    if let Some(fraction) = text.get(point + 1..) {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return Err(malformed);
        }
        for place in 0..9 {
            nanos = nanos * 10 + i128::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
        }
    }
    let total = seconds * 1_000_000_000 + nanos;
    let total = if negative { -total } else { total };
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).map_err(|_| malformed)?;
    let nanos = u32::try_from(total.rem_euclid(1_000_000_000)).map_err(|_| malformed)?;
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(bytes: &[u8]) -> Result<Entry, Malformed> {
        let last = bytes.len() - BLOCK as usize;
        let header = Header::from_byte_slice(&bytes[last..]);
        assert!(checksum_is_right(header));
        let records = if last == 0 {
            &[][..]
        } else {
            let first = Header::from_byte_slice(&bytes[..BLOCK as usize]);
            assert_eq!(first.entry_type(), EntryType::XHeader);
            let length = first.size().expect("a number") as usize;
            &bytes[BLOCK as usize..][..length]
        };
        Entry::decode(header, records)
    }

    proptest! {
        #[test]
        fn entries_read_as_written(
            path in proptest::collection::vec(1_u8..=255, 1..300),
            link in proptest::collection::vec(1_u8..=255, 1..300),
            kind in prop_oneof![
                Just(Kind::File), Just(Kind::HardLink), Just(Kind::Symlink), Just(Kind::Character),
                Just(Kind::Block), Just(Kind::Directory), Just(Kind::Fifo)
            ],
            size in any::<u64>(),
            (mode, uid, gid) in (0_u32..=0o7777, any::<u32>(), any::<u32>()),
            mtime in (any::<i64>(), 0_u32..1_000_000_000),
            device in (0_u32..=0o7_777_777, 0_u32..=0o7_777_777),
            xattr in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let is_device = matches!(kind, Kind::Character | Kind::Block);
            let entry = Entry {
                size: if kind == Kind::File { size } else { 0 },
                mode, uid, gid, mtime,
                link: if matches!(kind, Kind::Symlink | Kind::HardLink) { link } else { Vec::new() },
                device: if is_device { device } else { (0, 0) },
                xattrs: vec![Xattr { name: b"user.a".to_vec(), value: xattr }],
                ..Entry::new(path, kind)
            };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len() % BLOCK as usize, 0);
            prop_assert_eq!(read_back(&bytes), Ok(entry));
        }

        #[test]
        fn no_records_make_it_panic(records in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(&Entry::new("a", Kind::File).ustar_header(), &records);
        }
    }

    #[test]
    fn pax_times_go_both_ways() {
        for (time, text) in [
            ((0, 0), "0"),
            ((1, 500_000_000), "1.500000000"),
            ((-2, 500_000_000), "-1.500000000"),
            ((-1, 999_999_999), "-0.000000001"),
        ] {
            assert_eq!(pax_time(time.0, time.1), text);
            assert_eq!(parse_pax_time(text.as_bytes()), Ok(time));
        }
        assert_eq!(parse_pax_time(b"7.5"), Ok((7, 500_000_000)));
        for bad in ["", "-", ".5", "1.x", "1e3", "99999999999999999999", "--1", "+1"] {
            assert!(parse_pax_time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in
            ["x", "5 a=", "4 a=b\n", "99 a=b\n", "6 =b\n\n", "6 abc\n", "0 a=b\n", " a=b\n", "11 size=-1\n"]
        {
            let header = Entry::new("a", Kind::File).ustar_header();
            assert!(Entry::decode(&header, bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_counts_the_digits_of_its_length() {
        for (value, expected) in [(4, "10 a=vvvv\n".len() + 1), (93, 99), (94, 101), (95, 102)] {
            let mut out = Vec::new();
            push_record(&mut out, b"a", &vec![b'v'; value]);
            assert!(out.starts_with(out.len().to_string().as_bytes()), "{value}: {}", out.len());
            assert!(out.len() <= expected, "{value}: {}", out.len());
        }
    }
}
