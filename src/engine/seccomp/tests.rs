// SPDX-License-Identifier: Apache-2.0
//! Profiles, judged by running their programs as the kernel would.

use libseccomp::{ScmpArch, ScmpSyscall};
use serde_json::{Value, json};

use super::Filter;
use super::compile::program;
use crate::spec::oci::{Arch, LinuxSeccomp};
use crate::sys::seccomp::{
    FLAG_LOG, FLAG_NEW_LISTENER, FLAG_SPEC_ALLOW, Instruction, JUMP, JUMP_ANY_BIT, JUMP_EQUAL, JUMP_GREATER,
    LOAD, RETURN,
};

const ALLOW: u32 = 0x7fff_0000;
const KILL_THREAD: u32 = 0;
const ERRNO: u32 = 0x0005_0000;
const DENIED: u32 = ERRNO | libc::EPERM as u32;
const NOT_THERE: u32 = ERRNO | libc::ENOSYS as u32;
const X86_64: u32 = Arch::ScmpArchX86_64 as u32;
const X86: u32 = Arch::ScmpArchX86 as u32;
const AARCH64: u32 = Arch::ScmpArchAarch64 as u32;
const X32_BIT: u32 = 1 << 30;

fn profile(value: &Value) -> LinuxSeccomp {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"))
}

fn number(name: &str, arch: ScmpArch) -> u32 {
    ScmpSyscall::from_name_by_arch(name, arch).expect(name).as_raw_syscall().cast_unsigned()
}

/// The answer to a system call of an architecture.
fn ask(program: &[Instruction], arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut data = [number, arch].map(u32::to_le_bytes).concat();
    data.extend([0; 8]);
    data.extend((0..6).flat_map(|i| arguments.get(i).copied().unwrap_or(0).to_le_bytes()));
    let word = |at: u32| {
        let bytes = data[at as usize..at as usize + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    };
    let (mut at, mut loaded) = (0, 0);
    loop {
        let one = program[at];
        at += 1;
        let holds = match one.code {
            LOAD => {
                loaded = word(one.constant);
                continue;
            }
            RETURN => return one.constant,
            JUMP => {
                at += one.constant as usize;
                continue;
            }
            // BPF_ALU | BPF_AND | BPF_K
            0x54 => {
                loaded &= one.constant;
                continue;
            }
            JUMP_EQUAL => loaded == one.constant,
            JUMP_GREATER => loaded > one.constant,
            // BPF_JMP | BPF_JGE | BPF_K
            0x35 => loaded >= one.constant,
            JUMP_ANY_BIT => loaded & one.constant != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds { one.then } else { one.otherwise });
    }
}

fn native() -> (u32, ScmpArch) {
    (if crate::sys::arch::NAME == "aarch64" { AARCH64 } else { X86_64 }, ScmpArch::native())
}

/// Asks for a call of this processor's, by name.
fn judge(value: &Value, name: &str, arguments: &[u64]) -> u32 {
    let (audit, arch) = native();
    ask(&program(&profile(value)).expect("a program"), audit, number(name, arch), arguments)
}

#[test]
fn each_action_is_the_kernels() {
    let with = |action: &str, errno: Option<u32>| {
        let mut rule = json!({"names": ["umask"], "action": action});
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    };
    for (action, errno, answer) in [
        ("SCMP_ACT_KILL", None, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, DENIED),
        ("SCMP_ACT_ERRNO", Some(100), ERRNO | 100),
        ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_NOTIFY", None, 0x7fc0_0000),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
    ] {
        assert_eq!(judge(&with(action, errno), "umask", &[]), answer, "{action}");
        assert_eq!(judge(&with(action, errno), "getpid", &[]), ALLOW, "{action}");
    }
    let default = |action: &str, errno: u32| json!({"defaultAction": action, "defaultErrnoRet": errno});
    assert_eq!(judge(&default("SCMP_ACT_ERRNO", 6), "umask", &[]), ERRNO | 6);
}

#[test]
fn each_operator_compares() {
    for (operator, value, second, holds, fails) in [
        ("SCMP_CMP_NE", 5, None, 4, 5),
        ("SCMP_CMP_LT", 5, None, 4, 5),
        ("SCMP_CMP_LE", 5, None, 5, 6),
        ("SCMP_CMP_EQ", 5_u64 << 33, None, 5_u64 << 33, 5),
        ("SCMP_CMP_GE", 5, None, 5, 4),
        ("SCMP_CMP_GT", 5, None, 6, 5),
        ("SCMP_CMP_MASKED_EQ", 0xf0, Some(0x50), 0x5a, 0x6a),
        // Without a second value it is zero.
        ("SCMP_CMP_MASKED_EQ", 0x0f, None, 0xf0, 0xf1),
    ] {
        let mut argument = json!({"index": 1, "value": value, "op": operator});
        if let Some(second) = second {
            argument["valueTwo"] = json!(second);
        }
        let rule = json!({"names": ["setpgid"], "action": "SCMP_ACT_ERRNO", "args": [argument]});
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        assert_eq!(judge(&profile, "setpgid", &[0, holds]), DENIED, "{operator} {holds}");
        assert_eq!(judge(&profile, "setpgid", &[0, fails]), ALLOW, "{operator} {fails}");
    }
}

#[test]
fn conditions_hold_together_unless_they_are_about_one_argument() {
    let equal = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let with = |conditions: &[Value]| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["setpgid"], "action": "SCMP_ACT_ERRNO", "args": conditions},
        ]})
    };
    let both = with(&[equal(0, 1), equal(1, 2)]);
    assert_eq!(judge(&both, "setpgid", &[1, 2]), DENIED);
    assert_eq!(judge(&both, "setpgid", &[1, 3]), ALLOW);
    let either = with(&[equal(0, 1), equal(0, 2), equal(1, 9)]);
    for (arguments, answer) in [([1, 0], DENIED), ([2, 0], DENIED), ([3, 9], DENIED), ([3, 0], ALLOW)] {
        assert_eq!(judge(&either, "setpgid", &arguments), answer, "{arguments:?}");
    }
}

#[test]
fn what_libseccomp_does_not_know_or_calls_an_error_is_left_out() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["no_such_call", "getpid"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["umask"], "action": "SCMP_ACT_ERRNO"},
    ]});
    assert_eq!(judge(&profile, "getpid", &[]), ALLOW);
    assert_eq!(judge(&profile, "umask", &[]), DENIED);
}

#[test]
fn a_long_profile_becomes_a_tree_that_judges_alike() {
    let (audit, arch) = native();
    let names: Vec<String> = (0..300)
        .filter_map(|number| ScmpSyscall::from_raw_syscall(number).get_name_by_arch(arch).ok())
        .filter(|name| name != "umask")
        .collect();
    assert!(names.len() > 200);
    let rule = json!({"names": names, "action": "SCMP_ACT_ALLOW"});
    let program = program(&profile(&json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})))
        .expect("a program");
    for name in &names {
        assert_eq!(ask(&program, audit, number(name, arch), &[]), ALLOW, "{name}");
    }
    assert_eq!(ask(&program, audit, number("umask", arch), &[]), DENIED);
}

#[test]
fn what_is_newer_than_the_profile_is_not_there() {
    let with = |default: &str, architectures: &[&str]| {
        let profile =
            profile(&json!({"defaultAction": default, "architectures": architectures, "syscalls": [
                {"names": ["getpid", "openat2"], "action": "SCMP_ACT_ALLOW"},
            ]}));
        program(&profile).expect("a program")
    };
    let all = ["SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64"];
    let mixed = with("SCMP_ACT_ERRNO", &all);
    for (arch, known, newest) in [
        (X86_64, number("umask", ScmpArch::X8664), number("openat2", ScmpArch::X8664)),
        (X86_64, number("umask", ScmpArch::X32), number("openat2", ScmpArch::X32)),
        (X86, number("umask", ScmpArch::X86), number("openat2", ScmpArch::X86)),
        (AARCH64, number("umask", ScmpArch::Aarch64), number("openat2", ScmpArch::Aarch64)),
    ] {
        assert_eq!(ask(&mixed, arch, known, &[]), DENIED, "{arch:#x}");
        assert_eq!(ask(&mixed, arch, newest, &[]), ALLOW, "{arch:#x}");
        assert_eq!(ask(&mixed, arch, newest + 1, &[]), NOT_THERE, "{arch:#x}");
    }
    // The processor's own is always there; what the profile is not for is not this part's to answer.
    let (audit, arch) = native();
    let newer = number("openat2", arch) + 1;
    let own = with("SCMP_ACT_ERRNO", &[]);
    assert_eq!(ask(&own, audit, newer, &[]), NOT_THERE);
    assert_eq!(ask(&own, X86_64, newer | X32_BIT, &[]), KILL_THREAD);
    assert_eq!(ask(&own, X86, 1, &[]), KILL_THREAD);
    for (default, answer) in [
        ("SCMP_ACT_KILL", NOT_THERE),
        ("SCMP_ACT_TRAP", NOT_THERE),
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
    ] {
        assert_eq!(ask(&with(default, &[]), audit, newer, &[]), answer, "{default}");
    }
    let nothing = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []});
    assert_eq!(ask(&program(&profile(&nothing)).expect("a program"), audit, newer, &[]), DENIED);
}

#[test]
fn flags_are_the_kernels() {
    let flags = |more: &Value| {
        let mut all = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Filter::compile(&profile(&all)).expect("a filter").flags
    };
    let notify = json!([{"names": ["umask"], "action": "SCMP_ACT_NOTIFY"}]);
    for (more, expected) in [
        (json!({}), FLAG_SPEC_ALLOW),
        (json!({"flags": []}), 0),
        (json!({"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}), 0),
        (json!({"flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]}), FLAG_LOG),
        (json!({"flags": [], "syscalls": notify}), FLAG_NEW_LISTENER),
    ] {
        assert_eq!(flags(&more), expected, "{more}");
    }
}
