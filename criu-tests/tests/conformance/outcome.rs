// SPDX-License-Identifier: Apache-2.0
//! What differs between two outcomes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cases::{Case, Look, Topic};
use crate::documented::Difference;
use crate::engine::Outcome;

/// Words of the operating system: they are what is looked for, whatever was attempted.
const SYSTEM: [&str; 3] = ["no such file or directory", "permission denied", "exec format error"];

/// Differences of a case, in the form in which the document has them.
pub(crate) fn differences(case: &Case, runc: &[Outcome], ours: &[Outcome]) -> BTreeSet<Difference> {
    assert_eq!(runc.len(), ours.len());
    let mut all = BTreeSet::new();
    for (index, (theirs, ours)) in runc.iter().zip(ours).enumerate() {
        let of_line = if runc.len() == 1 { String::new() } else { format!("{}: ", theirs.line) };
        let is_file = index + 1 == runc.len() && matches!(case.look, Look::File(_));
        let mut found = vec![("exit code".to_owned(), theirs.code.to_string(), ours.code.to_string())];
        found.extend(of_errors(&theirs.error, &ours.error));
        // What follows `Incorrect Usage` is runc's help.
        if case.look != Look::NoStdout && !theirs.stdout.starts_with("Incorrect Usage") {
            found.extend(of_output(case, &theirs.stdout, &ours.stdout, is_file));
        }
        found.retain(|(_, runc, migrate)| runc != migrate);
        all.extend(found.into_iter().map(|(place, runc, migrate)| Difference {
            case: case.name.to_owned(),
            place: format!("{of_line}{place}"),
            runc,
            migrate,
        }));
    }
    all
}

/// More may be said than runc says; what it says is what its clients look for.
fn of_errors(theirs: &str, ours: &str) -> Option<(String, String, String)> {
    let words = theirs.split_once(" failed: ").filter(|(what, _)| what.starts_with("runc "));
    let words = words.map_or(theirs, |(_, words)| words);
    let core = words.rsplit(": ").next().filter(|cause| SYSTEM.contains(cause)).unwrap_or(words);
    let both = theirs.is_empty() == ours.is_empty();
    (!both || !ours.contains(core)).then(|| ("error".to_owned(), words.to_owned(), ours.to_owned()))
}

fn of_output(case: &Case, theirs: &str, ours: &str, exact: bool) -> Vec<(String, String, String)> {
    let (Some(theirs_json), Some(ours_json)) = (json(theirs), json(ours)) else {
        let plain = |text: &str| match case.topic {
            Topic::Output | Topic::Flags => skeleton(text),
            _ => text.trim_end().replace('\n', "/"),
        };
        return vec![("stdout".to_owned(), plain(theirs), plain(ours))];
    };
    let (theirs, ours) = (leaves(&theirs_json, exact), leaves(&ours_json, exact));
    let paths: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    // What is in something that only one has is not told apart.
    let both_have = |path: &str| theirs.contains_key(path) && ours.contains_key(path);
    let paths = paths.into_iter().filter(|path| above(path).is_none_or(both_have));
    let of = |leaves: &BTreeMap<String, String>, path| leaves.get(path).cloned().unwrap_or_default();
    paths.map(|path| (path.clone(), of(&theirs, path), of(&ours, path))).collect()
}

/// The path of what something is in.
fn above(path: &str) -> Option<&str> {
    path.strip_suffix("[]").or_else(|| path.rsplit_once('.').map(|(above, _)| above))
}

fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
}

/// Text without what changes from run to run: numbers, and how wide columns are.
fn skeleton(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim_end().chars() {
        let c = match c {
            _ if c.is_ascii_digit() => '#',
            _ if c.is_ascii_whitespace() && c != '\n' => ' ',
            _ => c,
        };
        if !(matches!(c, '#' | ' ') && out.ends_with(c)) {
            out.push(c);
        }
    }
    out.replace(" \n", "\n").replace('\n', "/")
}

/// What is at each path: its value where that is to be the same, else its type. The elements of an array are taken together.
fn leaves(value: &Value, exact: bool) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    collect(value, "", exact, &mut leaves);
    leaves
}

fn collect(value: &Value, path: &str, exact: bool, leaves: &mut BTreeMap<String, String>) {
    let mut leaf = |path: &str, text: String| {
        let seen = leaves.entry(path.to_owned()).or_default();
        if !seen.split(' ').any(|one| one == text) {
            *seen = format!("{seen} {text}").trim_start().to_owned();
        }
    };
    let varies = |text: &str| text.chars().any(|c| c.is_ascii_digit());
    match value {
        Value::Object(map) => {
            leaf(&path_or_top(path), "object".to_owned());
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(value, &path, exact, leaves);
            }
        }
        Value::Array(elements) => {
            leaf(&path_or_top(path), "array".to_owned());
            for element in elements {
                collect(element, &format!("{path}[]"), exact, leaves);
            }
        }
        _ if exact => leaf(path, value.to_string()),
        Value::String(_) if path.starts_with("annotations.") => leaf(path, "string".to_owned()),
        Value::String(text) if !varies(text) && !path.ends_with("[]") => leaf(path, value.to_string()),
        Value::Bool(_) => leaf(path, value.to_string()),
        Value::String(_) => leaf(path, "string".to_owned()),
        Value::Number(_) => leaf(path, "number".to_owned()),
        Value::Null => leaf(path, "null".to_owned()),
    }
}

fn path_or_top(path: &str) -> String {
    if path.is_empty() { "(top)".to_owned() } else { path.to_owned() }
}
