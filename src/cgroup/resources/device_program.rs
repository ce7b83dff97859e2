// SPDX-License-Identifier: Apache-2.0
//! `linux.resources.devices` as a program that the kernel runs at each use of a device by a process of a v2 cgroup. Pure.
//!
//! For each of read, write and mknod the last rule that speaks of it decides, so the rules are walked from the end: what
//! a rule allows is struck off what is wanted, what it denies ends the walk, and nothing being wanted any more is a
//! yes. Unlike the list of v1 a program can take a part out of a wider rule.
//!
//! ```text
//! r2 = type   r3 = wanted access   r4 = major   r5 = minor
//! for each rule:   skip it unless type, major and minor are its own
//!                  deny:  is any of its access wanted?  -> no
//!                  allow: wanted &= !access;  nothing left?  -> yes
//! the default
//! ```
//! Sources: kernel include/uapi/linux/bpf.h (`bpf_cgroup_dev_ctx`), Documentation/bpf/standardization/instruction-set.rst.

use crate::spec::oci::{LinuxDeviceCgroup, LinuxDeviceType};
use crate::sys::bpf::Instruction;

use super::devices::{Access, Entry, Kind, default_devices, entries};
use crate::Result;

/// Registers.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Operations on 32 bits, but for the move of the result.
const LOAD: u8 = 0x61;
const COPY: u8 = 0xbc;
const SET: u8 = 0xb7;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const UNLESS_EQUAL: u8 = 0x56;
const IF_ANY_BIT: u8 = 0x46;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;

/// What a container may do with devices on cgroup v2: the rules in their order, and what holds where none speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProgram {
    allows_by_default: bool,
    rules: Vec<(bool, Entry)>,
}

impl DeviceProgram {
    /// Nothing is allowed at first; then the rules apply in order; then come the devices that every container has.
    ///
    /// # Errors
    /// A rule is malformed.
    pub fn from_rules(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut program = Self { allows_by_default: false, rules: Vec::new() };
        for rule in rules {
            let entries = entries(rule)?;
            let is_everything = entries.iter().all(Entry::is_all_of_its_kind)
                && rule.typ().unwrap_or_default() == LinuxDeviceType::A;
            if is_everything {
                program = Self { allows_by_default: rule.allow(), rules: Vec::new() };
            } else {
                program.rules.extend(entries.into_iter().map(|entry| (rule.allow(), entry)));
            }
        }
        if !program.allows_by_default {
            program.rules.extend(default_devices().map(|entry| (true, entry)));
        }
        Ok(program)
    }

    /// The program.
    pub fn assemble(&self) -> Vec<Instruction> {
        let mut code = vec![
            load(TYPE, 0),
            register(COPY, WANTED, TYPE),
            constant(AND, TYPE, 0xffff),
            constant(SHIFT_RIGHT, WANTED, 16),
            load(MAJOR, 4),
            load(MINOR, 8),
        ];
        for (allow, entry) in self.rules.iter().rev() {
            code.extend(rule(*allow, entry));
        }
        code.extend(answer(self.allows_by_default));
        code
    }
}

/// The instructions of one rule; those who do not match leave at its end.
fn rule(allow: bool, entry: &Entry) -> Vec<Instruction> {
    let bits = kernel_access(entry.access);
    let mut decision = if allow {
        vec![constant(AND, WANTED, 7 & !bits), jump_unless(WANTED, 0, 2)]
    } else {
        vec![jump(IF_ANY_BIT, WANTED, bits, 1), jump(JUMP, 0, 0, 2)]
    };
    decision.extend(answer(allow));
    let kind = match entry.kind {
        Kind::Block => 1,
        Kind::Character => 2,
    };
    let mut conditions = vec![(TYPE, kind)];
    conditions.extend(entry.major.map(|major| (MAJOR, major.cast_signed())));
    conditions.extend(entry.minor.map(|minor| (MINOR, minor.cast_signed())));
    let mut code = Vec::new();
    for (index, (register, value)) in conditions.iter().enumerate() {
        let rest = conditions.len() - index - 1 + decision.len();
        code.push(jump_unless(*register, *value, i16::try_from(rest).expect("a rule has ten instructions")));
    }
    code.extend(decision);
    code
}

/// The kernel's bits: mknod 1, read 2, write 4.
fn kernel_access(access: Access) -> i32 {
    [(Access::READ, 2), (Access::WRITE, 4), (Access::MKNOD, 1)]
        .into_iter()
        .filter(|(ours, _)| access.meets(*ours))
        .map(|(_, bit)| bit)
        .sum()
}

fn answer(allow: bool) -> [Instruction; 2] {
    [constant(SET, RESULT, i32::from(allow)), constant(EXIT, 0, 0)]
}

fn load(destination: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD, registers: destination | (CONTEXT << 4), offset, immediate: 0 }
}

fn register(code: u8, destination: u8, source: u8) -> Instruction {
    Instruction { code, registers: destination | (source << 4), offset: 0, immediate: 0 }
}

fn constant(code: u8, destination: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: destination, offset: 0, immediate }
}

fn jump(code: u8, register: u8, immediate: i32, offset: i16) -> Instruction {
    Instruction { code, registers: register, offset, immediate }
}

fn jump_unless(register: u8, value: i32, offset: i16) -> Instruction {
    jump(UNLESS_EQUAL, register, value, offset)
}

#[cfg(test)]
mod tests {
    use super::super::devices::DeviceTable;
    use super::super::tests::resources;
    use super::*;
    use crate::ErrorKind;

    fn parsed(rules: &str) -> Vec<LinuxDeviceCgroup> {
        let resources = resources(&format!(r#"{{"devices":[{rules}]}}"#));
        resources.devices().clone().unwrap_or_default()
    }

    fn program(rules: &str) -> Vec<Instruction> {
        DeviceProgram::from_rules(&parsed(rules)).expect("valid rules").assemble()
    }

    /// Runs a program as the kernel would, for a use such as `c 1:3 rw`.
    fn allows(program: &[Instruction], device: &str) -> bool {
        let mut words = device.split([' ', ':']);
        let kind = if words.next() == Some("b") { 1 } else { 2 };
        let mut number = || words.next().expect("a number").parse::<u32>().expect("a number");
        let (major, minor) = (number(), number());
        let access = Access::parse(words.next().expect("an access")).expect("letters of rwm");
        let context = [kind | (kernel_access(access).cast_unsigned() << 16), major, minor];
        let mut registers = [0_u32; 11];
        let mut at = 0_usize;
        for _ in 0..10_000 {
            let i = program[at];
            let (destination, source) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let value = i.immediate.cast_unsigned();
            at += 1;
            let jumps = match i.code {
                LOAD => {
                    assert_eq!(source, usize::from(CONTEXT));
                    registers[destination] = context[usize::try_from(i.offset).expect("a field") / 4];
                    false
                }
                COPY => {
                    registers[destination] = registers[source];
                    false
                }
                SET => {
                    registers[destination] = value;
                    false
                }
                AND => {
                    registers[destination] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    registers[destination] >>= value;
                    false
                }
                UNLESS_EQUAL => registers[destination] != value,
                IF_ANY_BIT => registers[destination] & value != 0,
                JUMP => true,
                EXIT => return registers[usize::from(RESULT)] == 1,
                other => panic!("no instruction {other:#x}"),
            };
            if jumps {
                at += usize::try_from(i.offset).expect("jumps lead forwards");
            }
        }
        panic!("the program does not end");
    }

    /// What the list of v1 allows: the exceptions from its default, matched as kernel security/device_cgroup.c does.
    fn table_allows(rules: &str, device: &str) -> bool {
        let writes = DeviceTable::from_rules(&parsed(rules)).expect("expressible").writes();
        let by_default = writes[0].file == "devices.allow";
        let (wanted, access) = device.rsplit_once(' ').expect("an access");
        let matching = writes[1..].iter().filter_map(|write| {
            let (number, access) = write.value.rsplit_once(' ')?;
            let same =
                number.split([' ', ':']).zip(wanted.split([' ', ':'])).all(|(a, b)| a == "*" || a == b);
            same.then_some(access)
        });
        if by_default {
            !matching.into_iter().any(|denied| access.chars().any(|c| denied.contains(c)))
        } else {
            let matching: Vec<&str> = matching.collect();
            access.chars().all(|c| matching.iter().any(|allowed| allowed.contains(c)))
        }
    }

    const DENY: &str = r#"{"allow":false,"access":"rwm"}"#;
    const ALLOW: &str = r#"{"allow":true,"access":"rwm"}"#;
    const FUSE: &str = r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}"#;
    const DISKS: &str = r#"{"allow":true,"type":"b","major":8,"access":"r"}"#;
    const NO_DISKS: &str = r#"{"allow":false,"type":"b","major":8,"access":"w"}"#;
    const ALL_READ: &str = r#"{"allow":true,"type":"a","access":"r"}"#;

    #[test]
    fn the_defaults_are_allowed_and_nothing_else() {
        for rules in ["", DENY] {
            let program = program(rules);
            for device in
                ["c 1:3 rw", "c 1:5 r", "c 1:9 r", "c 5:0 rw", "c 5:2 rw", "c 136:7 rw", "b 8:0 m", "c 9:9 m"]
            {
                assert!(allows(&program, device), "{device}");
            }
            for device in
                ["c 1:1 r", "c 1:11 r", "b 8:0 r", "b 8:0 rm", "c 5:1 rw", "b 1:3 rw", "c 10:229 rw"]
            {
                assert!(!allows(&program, device), "{device}");
            }
        }
    }

    #[test]
    fn the_program_answers_as_the_list_of_version_1() {
        for rules in [
            vec![],
            vec![DENY],
            vec![ALLOW],
            vec![DENY, FUSE],
            vec![DENY, FUSE, DISKS],
            vec![FUSE, DENY, DISKS],
            vec![ALLOW, NO_DISKS],
            vec![DENY, ALL_READ],
            vec![ALLOW, DENY, DISKS],
        ] {
            let rules = rules.join(",");
            let program = program(&rules);
            for device in ["c 10:229", "c 10:228", "b 8:0", "b 8:16", "b 7:0", "c 1:3", "c 1:11", "c 136:4"] {
                for access in ["r", "w", "m", "rw", "rm", "rwm"] {
                    let device = format!("{device} {access}");
                    assert_eq!(allows(&program, &device), table_allows(&rules, &device), "{rules}: {device}");
                }
            }
        }
    }

    #[test]
    fn the_last_rule_that_speaks_of_it_decides() {
        let hole = r#"{"allow":true,"type":"c","major":10,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":229,"access":"w"}"#;
        let program_with_hole = program(&format!("{DENY},{hole}"));
        assert!(DeviceTable::from_rules(&parsed(hole)).is_err(), "a list cannot");
        assert!(allows(&program_with_hole, "c 10:229 r"));
        assert!(!allows(&program_with_hole, "c 10:229 rw"));
        assert!(allows(&program_with_hole, "c 10:228 rw"));
        let filled = program(&format!("{DENY},{hole},{FUSE}"));
        assert!(allows(&filled, "c 10:229 rw"));
        let parts = r#"{"allow":true,"type":"c","major":10,"access":"r"},{"allow":true,"type":"c","minor":229,"access":"w"}"#;
        assert!(allows(&program(parts), "c 10:229 rw"), "two rules together");
    }

    #[test]
    fn large_numbers_and_malformed_rules() {
        let large = r#"{"allow":true,"type":"c","major":4294967295,"minor":4294967294,"access":"r"}"#;
        assert!(allows(&program(large), "c 4294967295:4294967294 r"));
        assert!(!allows(&program(large), "c 4294967295:4294967295 r"));
        for rule in [r#"{"allow":true,"type":"p","access":"r"}"#, r#"{"allow":true,"type":"c","access":"x"}"#]
        {
            let error = DeviceProgram::from_rules(&parsed(rule)).expect_err(rule);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        }
    }
}
