// SPDX-License-Identifier: Apache-2.0
//! `linux.resources.devices`: the allow list of the v1 devices controller. Pure.
//!
//! The kernel's list cannot take a part out of a wider rule: denying `c 1:3` after allowing `c 1:*` is accepted and
//! does nothing. So the rules are first worked out here, into a table that holds exactly what is meant, and a rule
//! that cannot be expressed is an error instead of a hole. Source: kernel admin-guide/cgroup-v1/devices.rst.

use std::fmt;

use crate::spec::oci::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Write, invalid, unsupported};
use crate::Result;

const FIELD: &str = "linux.resources.devices";

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A block device.
    Block,
    /// A character device.
    Character,
}

/// A set of device numbers and what may be done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

/// Bits of `rwm`: read, write, mknod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(u8);

impl Access {
    const ALL: Self = Self(7);
    pub(super) const READ: Self = Self(1);
    pub(super) const WRITE: Self = Self(2);
    pub(super) const MKNOD: Self = Self(4);

    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Further letters mean nothing, as for runc: there are configurations with "rwa".
    pub(super) fn parse(text: &str) -> Result<Self> {
        let known = text.chars().fold(0, |bits, letter| match letter {
            'r' => bits | 1,
            'w' => bits | 2,
            'm' => bits | 4,
            _ => bits,
        });
        match known {
            0 => Err(invalid(FIELD, format_args!("has the access {text:?}, not letters of \"rwm\""))),
            _ => Ok(Self(known)),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(1, "r"), (2, "w"), (4, "m")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

impl Entry {
    pub(super) fn is_all_of_its_kind(&self) -> bool {
        self.access == Access::ALL && self.major.is_none() && self.minor.is_none()
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && self.access.meets(other.access)
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
    }
}

/// Devices that may be used, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Of which kind.
    pub kind: Kind,
    /// The major number, or all.
    pub major: Option<u32>,
    /// The minor number, or all.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

/// What a container may do with devices, worked out from the configuration's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTable {
    allows_by_default: bool,
    exceptions: Vec<Entry>,
}

impl DeviceTable {
    /// Nothing is allowed at first; then the rules apply in order; then come the devices that every container has.
    ///
    /// # Errors
    /// A rule is malformed, or takes a part out of a wider earlier rule, which the controller cannot do.
    pub fn from_rules(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut table = Self { allows_by_default: false, exceptions: Vec::new() };
        for rule in rules {
            table.apply(rule)?;
        }
        if !table.allows_by_default {
            default_devices().for_each(|entry| table.add(entry));
        }
        Ok(table)
    }

    /// The writes that bring a cgroup's list to this table; it must not have cgroups beneath it.
    pub fn writes(&self) -> Vec<Write> {
        let (reset, file) = if self.allows_by_default {
            ("devices.allow", "devices.deny")
        } else {
            ("devices.deny", "devices.allow")
        };
        std::iter::once(Write::new("devices", reset, "a", FIELD))
            .chain(self.exceptions.iter().map(|entry| Write::new("devices", file, entry, FIELD)))
            .collect()
    }

    /// Whether `devices.list` shows this table already. The exceptions from "everything is allowed" are not in that
    /// file, so only that it has none can be seen: with exceptions the answer is no.
    pub fn is_shown_by(&self, devices_list: &str) -> bool {
        if self.allows_by_default {
            return false;
        }
        let mut shown: Vec<&str> = devices_list.lines().collect();
        let mut wanted: Vec<String> = self.exceptions.iter().map(ToString::to_string).collect();
        shown.sort_unstable();
        wanted.sort_unstable();
        shown == wanted
    }

    /// What is allowed if nothing else is. Absent where the table says what is not allowed.
    pub fn allowed(&self) -> Option<Vec<Allowed>> {
        let entry = |e: &Entry| Allowed {
            kind: e.kind,
            major: e.major,
            minor: e.minor,
            access: e.access.to_string(),
        };
        (!self.allows_by_default).then(|| self.exceptions.iter().map(entry).collect())
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup) -> Result<()> {
        let entries = entries(rule)?;
        if rule.typ().unwrap_or_default() == LinuxDeviceType::A
            && entries.iter().all(Entry::is_all_of_its_kind)
        {
            *self = Self { allows_by_default: rule.allow(), exceptions: Vec::new() };
            return Ok(());
        }
        for entry in entries {
            if rule.allow() == self.allows_by_default {
                self.take_out(&entry)?;
            } else {
                self.add(entry);
            }
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) {
        match self.exceptions.iter_mut().find(|e| e.same_devices(&entry)) {
            Some(present) => present.access.0 |= entry.access.0,
            None => self.exceptions.push(entry),
        }
    }

    fn take_out(&mut self, entry: &Entry) -> Result<()> {
        if let Some(wider) = self.exceptions.iter().find(|e| e.overlaps(entry) && !e.same_devices(entry)) {
            let why = format_args!("has the rule {entry} after {wider}, which cgroup v1 cannot take apart");
            return Err(unsupported(FIELD, why).with_hint("list the narrower rules only"));
        }
        for present in self.exceptions.iter_mut().filter(|e| e.same_devices(entry)) {
            present.access.0 &= !entry.access.0;
        }
        self.exceptions.retain(|e| e.access.0 != 0);
        Ok(())
    }
}

/// The device numbers that a rule speaks of: one entry, or one of each kind.
pub(super) fn entries(rule: &LinuxDeviceCgroup) -> Result<Vec<Entry>> {
    let access = match rule.access().as_deref() {
        None | Some("") => Access::ALL,
        Some(text) => Access::parse(text)?,
    };
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    let kinds: &[Kind] = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => &[Kind::Block, Kind::Character],
        LinuxDeviceType::B => &[Kind::Block],
        LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Character],
        LinuxDeviceType::P => return Err(invalid(FIELD, "has a rule for a fifo, which is no device")),
    };
    Ok(kinds.iter().map(|kind| Entry { kind: *kind, major, minor, access }).collect())
}

fn number(number: Option<i64>) -> Result<Option<u32>> {
    match number {
        None | Some(-1) => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(invalid(FIELD, format_args!("has the device number {n}"))),
        },
    }
}

/// mknod of anything, and use of null, zero, full, random, urandom, tty, ptmx and the pseudo-terminals:
/// runtime-spec config-linux.md, "Default Devices".
pub(super) fn default_devices() -> impl Iterator<Item = Entry> {
    let mknod = |kind| Entry { kind, major: None, minor: None, access: Access::MKNOD };
    let full =
        |(major, minor)| Entry { kind: Kind::Character, major: Some(major), minor, access: Access::ALL };
    let nodes = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    [mknod(Kind::Character), mknod(Kind::Block)]
        .into_iter()
        .chain(nodes.into_iter().map(|(major, minor)| (major, Some(minor))).map(full))
        .chain(std::iter::once((136, None)).map(full))
}

#[cfg(test)]
mod tests {
    use super::super::tests::resources;
    use super::*;
    use crate::{Error, ErrorKind};

    fn table(rules: &str) -> std::result::Result<DeviceTable, Error> {
        let resources = resources(&format!(r#"{{"devices":[{rules}]}}"#));
        DeviceTable::from_rules(resources.devices().as_deref().unwrap_or_default())
    }

    fn shown(rules: &str) -> Vec<String> {
        let writes = table(rules).expect("expressible").writes();
        writes.iter().map(|w| format!("{} {}", w.file.trim_start_matches("devices."), w.value)).collect()
    }

    const DEFAULTS: usize = 10;

    #[test]
    fn the_default_configuration_denies_all_but_the_defaults() {
        let writes = shown(r#"{"allow":false,"access":"rwm"}"#);
        assert_eq!(writes.len(), 1 + DEFAULTS);
        assert_eq!(writes[..4], ["deny a", "allow c *:* m", "allow b *:* m", "allow c 1:3 rwm"]);
        assert_eq!(writes[DEFAULTS], "allow c 136:* rwm");
        assert_eq!(shown(""), writes);
    }

    #[test]
    fn rules_apply_in_order() {
        let deny = r#"{"allow":false,"access":"rwm"}"#;
        let fuse = r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"}"#;
        let no_write = r#"{"allow":false,"type":"c","major":10,"minor":229,"access":"w"}"#;
        assert_eq!(shown(&format!("{deny},{fuse}"))[1], "allow c 10:229 rwm");
        assert_eq!(shown(&format!("{deny},{fuse},{no_write}"))[1], "allow c 10:229 rm");
        assert_eq!(shown(&format!("{fuse},{deny}")).len(), 1 + DEFAULTS);
        assert_eq!(shown(r#"{"allow":true,"access":"r"}"#)[1..3], ["allow b *:* rm", "allow c *:* rm"]);
        assert_eq!(shown(r#"{"allow":true,"access":"ra"}"#), shown(r#"{"allow":true,"access":"r"}"#));
        assert_eq!(shown(r#"{"allow":true}"#), ["allow a"]);
        let no_disk = r#"{"allow":false,"type":"b","major":8,"minor":-1,"access":"rw"}"#;
        assert_eq!(shown(&format!(r#"{{"allow":true}},{no_disk}"#)), ["allow a", "deny b 8:* rw"]);
    }

    #[test]
    fn a_hole_in_a_wider_rule_is_refused() {
        let all = r#"{"allow":true,"type":"c","major":1,"access":"rwm"}"#;
        let part = r#"{"allow":false,"type":"c","major":1,"minor":1,"access":"rwm"}"#;
        let error = table(&format!("{all},{part}")).expect_err("cannot be expressed");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for rule in [
            r#"{"allow":true,"type":"c","access":"x"}"#,
            r#"{"allow":true,"type":"p","access":"r"}"#,
            r#"{"allow":true,"type":"c","major":-2,"access":"r"}"#,
            r#"{"allow":true,"type":"c","major":99999999999,"access":"r"}"#,
        ] {
            let error = table(rule).expect_err(rule);
            assert!(error.to_string().starts_with(FIELD), "{error}");
        }
    }

    #[test]
    fn the_kernel_s_list_is_compared_without_its_order() {
        let table = table("").expect("expressible");
        let mut lines: Vec<String> = table.writes()[1..].iter().map(|w| w.value.clone()).collect();
        lines.reverse();
        assert!(table.is_shown_by(&lines.join("\n")));
        assert!(!table.is_shown_by("a *:* rwm"));
    }
}
