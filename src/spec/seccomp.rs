// SPDX-License-Identifier: Apache-2.0
//! Judges `linux.seccomp`: what the specification forbids, and what could not work with any kernel. Pure.

use std::path::Path;

use super::oci::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, Spec};
use super::validate::invalid;
use crate::Result;

/// A system call has no more arguments.
const ARGUMENTS: usize = 6;
/// The kernel passes no greater error number on (`MAX_ERRNO`).
const GREATEST_ERRNO: u32 = 4095;

pub(super) fn validate(spec: &Spec) -> Result<()> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(());
    };
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(wrong("defaultAction", "is invalid: SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    errno(profile.default_action(), profile.default_errno_ret(), "defaultErrnoRet")?;
    for (i, rule) in profile.syscalls().iter().flatten().enumerate() {
        let field = |name: &str| format!("syscalls[{i}].{name}");
        errno(rule.action(), rule.errno_ret(), &field("errnoRet"))?;
        if rule.names().iter().any(String::is_empty) {
            return Err(wrong(&field("names"), "has an empty string, which is no system call"));
        }
        let asks = rule.action() == LinuxSeccompAction::ScmpActNotify;
        // The container's process says with it where it can be asked.
        if asks && rule.names().iter().any(|name| name == "write") {
            let rule = "is invalid: SCMP_ACT_NOTIFY cannot be used for the write syscall";
            return Err(wrong(&field("names"), rule));
        }
        if let Some(k) = rule.args().iter().flatten().position(|argument| argument.index() >= ARGUMENTS) {
            return Err(wrong(&field(&format!("args[{k}].index")), "must be from 0 to 5"));
        }
    }
    listener(profile)
}

/// Whether somebody else is asked about system calls.
pub fn asks_others(profile: &LinuxSeccomp) -> bool {
    profile.syscalls().iter().flatten().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

fn listener(profile: &LinuxSeccomp) -> Result<()> {
    let path = profile.listener_path().as_deref().filter(|path| *path != Path::new(""));
    let metadata = profile.listener_metadata().as_deref().unwrap_or_default();
    if path.is_none() && asks_others(profile) {
        return Err(wrong(
            "listenerPath",
            "is required for SCMP_ACT_NOTIFY: seccomp listenerPath is not set",
        ));
    }
    if path.is_none() && !metadata.is_empty() {
        return Err(wrong("listenerMetadata", "needs linux.seccomp.listenerPath"));
    }
    let waits = LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv;
    if !asks_others(profile) && profile.flags().iter().flatten().any(|flag| *flag == waits) {
        return Err(wrong("flags", &format!("has {waits}, which needs SCMP_ACT_NOTIFY")));
    }
    Ok(())
}

/// The specification: "When the action doesn't support an errno, the runtime MUST print and error and fail".
fn errno(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<()> {
    use LinuxSeccompAction::{ScmpActErrno, ScmpActTrace};
    let Some(number) = errno else { return Ok(()) };
    let greatest = match action {
        ScmpActErrno => GREATEST_ERRNO,
        ScmpActTrace => u16::MAX.into(),
        // Who writes each field says nothing with it.
        _ if number == 0 => 0,
        _ => return Err(wrong(field, &format!("is not for the action {action}"))),
    };
    if number > greatest {
        return Err(wrong(field, &format!("must not be greater than {greatest}")));
    }
    Ok(())
}

fn wrong(field: &str, rule: &str) -> crate::Error {
    invalid(&format!("linux.seccomp.{field}"), rule)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Config, template, validate};
    use super::*;
    use crate::ErrorKind;

    fn judge(profile: &Value) -> Result<()> {
        let mut value = template(false);
        value["linux"]["seccomp"] = profile.clone();
        validate(&Config::parse(value.to_string().into_bytes())?.spec)
    }

    fn rule(more: &Value) -> Value {
        let mut rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let allow = |field: &str, value: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", field: value});
        let notify = |names: Value| rule(&json!({"names": names, "action": "SCMP_ACT_NOTIFY"}));
        let sixth = json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]);
        let table = [
            (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY cannot be used as default action"),
            (notify(json!(["read", "write"])), "SCMP_ACT_NOTIFY cannot be used for the write syscall"),
            (notify(json!(["mkdir"])), "`linux.seccomp.listenerPath` is required"),
            (
                rule(&json!({"action": "SCMP_ACT_KILL", "errnoRet": 1})),
                "`linux.seccomp.syscalls[0].errnoRet`",
            ),
            (rule(&json!({"errnoRet": 4096})), "errnoRet` must not be greater than 4095"),
            (rule(&json!({"names": [""]})), "`linux.seccomp.syscalls[0].names`"),
            (rule(&json!({"args": sixth})), "`linux.seccomp.syscalls[0].args[0].index` must be from 0 to 5"),
            (allow("listenerMetadata", json!("x")), "`linux.seccomp.listenerMetadata`"),
            (allow("flags", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), "`linux.seccomp.flags`"),
            (allow("flags", json!(["SECCOMP_FILTER_FLAG_X"])), "linux.seccomp.flags"),
            (allow("architectures", json!(["SCMP_ARCH_VAX"])), "linux.seccomp.architectures"),
            (json!({"defaultAction": "SCMP_ACT_WHAT"}), "linux.seccomp.defaultAction"),
            (json!({"syscalls": [{"names": ["a"], "action": "SCMP_ACT_KILL"}]}), "linux.seccomp"),
        ];
        for (profile, words) in table {
            let error = judge(&profile).expect_err(words);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{profile}");
            assert!(error.chain().contains(words), "{profile}: {}", error.chain());
        }
    }

    #[test]
    fn what_says_nothing_is_harmless() {
        for profile in [
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "listenerMetadata": "bar"}),
            rule(&json!({"errnoRet": 100, "args": null})),
            rule(&json!({"action": "SCMP_ACT_KILL", "errnoRet": 0})),
            json!({}),
            json!({"defaultAction": "", "syscalls": null}),
        ] {
            judge(&profile).unwrap_or_else(|e| panic!("{profile}: {}", e.chain()));
        }
    }
}
