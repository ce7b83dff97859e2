// SPDX-License-Identifier: Apache-2.0
//! Reads `config.json`: bounded, with the JSON path of the field in every complaint.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::oci::{Capability, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Spec};
use crate::{Context, Error, ErrorKind, Result};

/// A `config.json` larger than this many bytes is refused.
const SIZE_LIMIT: u64 = 16 << 20;

/// A configuration as it was read: the values, and the very bytes for those who keep it.
#[derive(Clone)]
pub struct Config {
    /// The parsed configuration, without the capabilities that this kernel's headers do not name.
    pub spec: Spec,
    /// The file's bytes, unchanged.
    pub bytes: Vec<u8>,
}

/// Not the content: environments hold secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.spec.process().as_ref();
        f.debug_struct("Config")
            .field("args", &process.and_then(|process| process.args().as_ref()))
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The configuration that these values are.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]; the message names the field.
    pub fn from_spec(spec: &Spec) -> Result<Self> {
        let bytes = serde_json::to_vec(spec)
            .context_kind(ErrorKind::InvalidConfig, || "write the configuration as JSON")?;
        Self::parse(bytes)
    }

    /// Reads `config.json` of a bundle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when the file is missing, too large, not JSON, or holds a field of the wrong
    /// type; the message names the field.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let file = File::open(&path).map_err(|e| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            if missing && bundle.is_dir() {
                // runc's words.
                let message = "JSON specification file config.json not found";
                return Error::new(ErrorKind::InvalidConfig, message)
                    .with_hint(format!("`migrate spec --bundle {}` writes a first one", bundle.display()));
            }
            let error =
                Error::new(ErrorKind::InvalidConfig, format!("open {}", path.display())).with_source(e);
            if missing { error.with_hint("pass the bundle's directory with --bundle") } else { error }
        })?;
        let mut bytes = Vec::with_capacity(16 << 10);
        file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes).context(|| format!("read {}", path.display()))?;
        if bytes.len() as u64 > SIZE_LIMIT {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{} is larger than {} MiB", path.display(), SIZE_LIMIT >> 20),
            ));
        }
        Self::parse(bytes).context(|| format!("read {}", path.display()))
    }

    /// The same configuration with a change, which is in its bytes too.
    ///
    /// # Errors
    /// That of `change`, or as [`Config::parse`].
    pub fn changed(&self, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        let mut value: Value = serde_json::from_slice(&self.bytes)
            .context_kind(ErrorKind::InvalidConfig, || "the configuration is not JSON")?;
        change(&mut value)?;
        Self::parse(value.to_string().into_bytes())
    }

    /// Parses the bytes of a `config.json`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]; the message names the field.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let mut value: Value = serde_json::from_slice(&bytes)
            .context_kind(ErrorKind::InvalidConfig, || "the configuration is not JSON")?;
        if let Some(process) = value.get_mut("process") {
            adapt_process(process);
        }
        if let Some(linux) = value.get_mut("linux") {
            adapt_memory_policy(linux)?;
            adapt_seccomp(linux);
        }
        let spec: Spec = typed(&value, "configuration")?;
        Ok(Self { spec, bytes })
    }
}

/// Parses a process that stands by itself (`exec --process`).
///
/// # Errors
/// [`ErrorKind::InvalidConfig`]; the message names the field.
pub fn parse_process(bytes: &[u8]) -> Result<Process> {
    let mut value: Value =
        serde_json::from_slice(bytes).context_kind(ErrorKind::InvalidConfig, || "the process is not JSON")?;
    adapt_process(&mut value);
    typed(&value, "process")
}

pub(super) fn typed<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T> {
    // What knows the field that is wrong is large: it is for those that are.
    T::deserialize(value).or_else(|_| serde_path_to_error::deserialize(value)).map_err(|e| {
        let field = e.path().to_string();
        let message =
            if field == "." { format!("invalid {what}") } else { format!("invalid {what}: field `{field}`") };
        Error::new(ErrorKind::InvalidConfig, message).with_source(e.into_inner())
    })
}

/// From what the specification writes to what its types read.
fn adapt_process(process: &mut Value) {
    drop_unknown_capabilities(process);
    rename_scheduler_flags(process);
    let Some(process) = process.as_object_mut() else { return };
    // Who is not named is root, to every engine.
    let user = process.entry("user").or_insert_with(|| Value::Object(Map::new()));
    if let Some(user) = user.as_object_mut() {
        user.entry("uid").or_insert(0.into());
        user.entry("gid").or_insert(0.into());
    }
}

/// An empty policy is none, and what is not known is refused in the words that clients look for.
fn adapt_memory_policy(linux: &mut Value) -> Result<()> {
    let Some(policy) = linux.get("memoryPolicy").filter(|policy| !policy.is_null()) else { return Ok(()) };
    if policy.as_object().is_some_and(Map::is_empty) {
        linux["memoryPolicy"] = Value::Null;
        return Ok(());
    }
    let refuse = |field: &str, what: &str, value: &Value| {
        let message = format!(
            "invalid configuration: field `linux.memoryPolicy.{field}`: invalid memory policy {what}: {value}"
        );
        Err(Error::new(ErrorKind::InvalidConfig, message))
    };
    let mode = &policy["mode"];
    if serde_json::from_value::<MemoryPolicyModeType>(mode.clone()).is_err() {
        return refuse("mode", "mode", mode);
    }
    for flag in policy["flags"].as_array().into_iter().flatten() {
        if serde_json::from_value::<MemoryPolicyFlagType>(flag.clone()).is_err() {
            return refuse("flags", "flag", flag);
        }
    }
    Ok(())
}

/// A profile without an action is none.
fn adapt_seccomp(linux: &mut Value) {
    let Some(profile) = linux.get_mut("seccomp") else { return };
    let is_empty = |field: &str| match profile.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if profile.is_object() && is_empty("defaultAction") && is_empty("syscalls") {
        *profile = Value::Null;
    }
}

/// The types of the specification spell two flags in their own way.
fn rename_scheduler_flags(process: &mut Value) {
    let flags = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => {}
        }
    }
}

/// Capabilities newer than this program are no reason to refuse a container (runc warns too).
fn drop_unknown_capabilities(process: &mut Value) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else {
        return;
    };
    for (set, names) in sets {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let known = name.as_str().is_none_or(is_known_capability);
            if !known {
                tracing::warn!(%set, capability = %name, "unknown capability ignored");
            }
            known
        });
    }
}

fn is_known_capability(name: &str) -> bool {
    serde_json::from_value::<Capability>(Value::String(name.to_owned())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(json: &str) -> String {
        Config::parse(json.as_bytes().to_vec()).expect_err("the configuration is invalid").chain()
    }

    #[test]
    fn a_wrong_type_names_the_field() {
        let text = error_of(r#"{"ociVersion":"1.0.2","process":{"cwd":"/","args":"sh"}}"#);
        assert!(text.contains("`process.args`"), "{text}");
        let text = error_of(r#"{"ociVersion":"1.0.2","linux":{"namespaces":[{"type":"nope"}]}}"#);
        assert!(text.contains("`linux.namespaces[0].type`"), "{text}");
    }

    #[test]
    fn what_is_not_json_says_where_it_stops_being_json() {
        let text = error_of("{\"ociVersion\": }");
        assert!(text.contains("not JSON") && text.contains("line 1 column"), "{text}");
    }

    #[test]
    fn an_unknown_capability_is_left_out() {
        let json = br#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["sh"],
            "capabilities":{"bounding":["CAP_KILL","CAP_FROM_THE_FUTURE"]}}}"#;
        let config = Config::parse(json.to_vec()).expect("only a capability is unknown");
        let process = config.spec.process().as_ref().expect("there is a process");
        let sets = process.capabilities().as_ref().expect("there are capabilities");
        assert_eq!(sets.bounding().as_ref().map(std::collections::HashSet::len), Some(1));
    }
}
