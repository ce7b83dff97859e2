// SPDX-License-Identifier: Apache-2.0
//! From a rule and the line that it fits to sentences.
//!
//! Beside what the pattern took from the line a sentence may name `{who}` (the process: `process 7 (nginx)`), `{fd}` (a
//! descriptor in brackets, or nothing), `{id}` (the container), `{images}` (the directory of the images).

use super::Diagnosis;
use super::context::Context;
use super::evidence::{Candidate, Evidence, shown};
use super::pattern::Captures;
use super::rules::{If, Rule};

/// Names for which every rule has a value. A number is a process's on the host.
const PATHS: [&str; 3] = ["path", "image", "mount"];

pub(super) fn diagnosis(
    rule: &'static Rule,
    candidate: &Candidate<'_>,
    captures: &Captures<'_>,
    context: &Context,
) -> Diagnosis {
    let evidence = evidence(rule, candidate, captures, context);
    let fill = |text| fill(text, captures, &evidence, context);
    Diagnosis { rule: rule.name, cause: fill(rule.cause), remedy: fill(rule.remedy), evidence }
}

fn evidence(rule: &Rule, candidate: &Candidate<'_>, captures: &Captures<'_>, context: &Context) -> Evidence {
    let captured = |name: &str| captures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let number = |name| captured(name).and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse::<i32>().ok());
    let host = number("host").or(candidate.host);
    let mut process = host.and_then(|host| context.on_the_host(host));
    let mut pid = number("pid").or_else(|| process.map(|process| process.pid));
    let mut fd = candidate.fd.or_else(|| number("number"));
    if number("host").is_none() {
        pid = pid.or(candidate.pid);
    }
    if let If::Open(target) = rule.only
        && let Some(open) = context.descriptor(target)
    {
        (pid, fd, process) = (Some(open.pid), Some(open.fd), None);
    }
    process = process.or_else(|| context.inside(pid?));
    let logged = candidate.command.filter(|_| number("host").is_none() && number("pid").is_none());
    let command = process.map(|process| shown(process.command.as_bytes())).or_else(|| logged.map(shown));
    let path = PATHS.iter().find_map(|name| captured(name));
    Evidence {
        line: shown(candidate.raw),
        sentence: shown(candidate.text),
        pid,
        command,
        fd,
        path: path.map(shown),
    }
}

/// The sentence with everything in place.
fn fill(text: &'static str, captures: &Captures<'_>, evidence: &Evidence, context: &Context) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((name, after)) = after.split_once('}') else { break };
        filled.push_str(&value(name, captures, evidence, context));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

fn value(name: &str, captures: &Captures<'_>, evidence: &Evidence, context: &Context) -> String {
    match name {
        "who" => who(evidence),
        "fd" => evidence.fd.map(|fd| format!(" (descriptor {fd})")).unwrap_or_default(),
        "id" => shown(context.id.as_bytes()),
        "images" => {
            context.images.as_deref().map_or_else(|| "the images".to_owned(), |i| shown(i.as_bytes()))
        }
        "path" | "mount" => {
            rooted(captures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
        }
        "image" => {
            let image =
                captures.iter().find(|(known, _)| *known == name).map_or(&b""[..], |(_, value)| *value);
            shown(image.rsplit(|&b| b == b'/').next().unwrap_or_default())
        }
        "family" => family(captures),
        _ => captures
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| shown(value))
            .unwrap_or_default(),
    }
}

fn who(evidence: &Evidence) -> String {
    match (evidence.pid, evidence.command.as_deref()) {
        (Some(pid), Some(command)) => format!("process {pid} ({command})"),
        (Some(pid), None) => format!("process {pid}"),
        (None, Some(command)) => format!("a process ({command})"),
        (None, None) => "a process".to_owned(),
    }
}

/// CRIU leaves the first slash out, or puts a dot before it.
fn rooted(path: Option<&[u8]>) -> String {
    let path = shown(path.unwrap_or_default());
    let path = path.strip_prefix("./").unwrap_or(&path);
    // At a restore CRIU first makes each mount beside the others: /tmp/.criu.mntns.abcdef/mnt-0000000042/etc.
    let beside = path.split_once("/.criu.mntns.").and_then(|(_, rest)| rest.split_once("/mnt-"));
    let path = beside.and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
    if path.starts_with('/') || path.is_empty() { path.to_owned() } else { format!("/{path}") }
}

/// The names of the families that programs use and CRIU does not know, by the numbers of linux/socket.h.
fn family(captures: &Captures<'_>) -> String {
    const NAMES: [(&str, &str); 8] = [
        ("15", "AF_KEY"),
        ("29", "AF_CAN"),
        ("30", "AF_TIPC"),
        ("31", "AF_BLUETOOTH"),
        ("38", "AF_ALG"),
        ("40", "AF_VSOCK"),
        ("43", "AF_SMC"),
        ("44", "AF_XDP"),
    ];
    let number = captures.iter().find(|(known, _)| *known == "family").map(|(_, value)| shown(value));
    let number = number.unwrap_or_default();
    let name = NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("family {number}"))
}
