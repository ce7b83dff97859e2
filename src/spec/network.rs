// SPDX-License-Identifier: Apache-2.0
//! Judges `linux.netDevices`: the host's network interfaces that a container takes over. Pure.

use std::collections::HashSet;

use super::oci::{LinuxNamespaceType, Spec};
use super::validate::invalid;
use crate::Result;

/// The longest name of an interface, in bytes (`IFNAMSIZ` less the zero byte).
const LONGEST: usize = 15;

/// Whether the kernel takes this as the name of an interface: a file name of at most 15 bytes without blanks and colons
/// (`dev_valid_name`), and without `%`, which asks the kernel for a number.
pub fn is_interface_name(name: &str) -> bool {
    let forbidden = |b: u8| matches!(b, b'/' | b':' | b'%' | 0 | 0x0b | 0xa0) || b.is_ascii_whitespace();
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST && !name.bytes().any(forbidden)
}

/// Checks the names, and that there is a namespace to go to.
pub(super) fn validate(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let devices = linux.net_devices().as_ref();
    if devices.is_none_or(std::collections::HashMap::is_empty) {
        return Ok(());
    }
    let is_network = |n: &super::oci::LinuxNamespace| n.typ() == LinuxNamespaceType::Network;
    if !linux.namespaces().iter().flatten().any(is_network) {
        let rule = "cannot be done: unable to move network devices without a NET namespace";
        return Err(invalid("linux.netDevices", rule));
    }
    let mut names = HashSet::from(["lo"]);
    let mut sorted: Vec<_> = devices.into_iter().flatten().collect();
    sorted.sort_by_key(|(name, _)| *name);
    for (host, device) in sorted {
        let field = format!("linux.netDevices[{host}]");
        if !is_interface_name(host) {
            return Err(invalid(&field, &format!("has an invalid network device name {host:?}")));
        }
        let name = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
        if !is_interface_name(name) {
            return Err(invalid(
                &format!("{field}.name"),
                &format!("is an invalid network device name {name:?}"),
            ));
        }
        if !names.insert(name) {
            return Err(invalid(&format!("{field}.name"), &format!("{name:?} is taken in the container")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Config, template};
    use super::*;

    fn judge(devices: Value, namespaces: Option<Value>) -> Result<()> {
        let mut value = template(false);
        value["linux"]["netDevices"] = devices;
        if let Some(namespaces) = namespaces {
            value["linux"]["namespaces"] = namespaces;
        }
        validate(&Config::parse(value.to_string().into_bytes()).expect("it parses").spec)
    }

    #[test]
    fn names_are_judged_as_the_kernel_does() {
        for good in ["eth0", "a", "123456789012345", "ü", "a.b-c_d@1"] {
            assert!(is_interface_name(good), "{good:?}");
            judge(json!({good: {}}), None).expect(good);
        }
        for bad in ["", ".", "..", "1234567890123456", "a/b", "a:1", "a b", "a\tb", "eth%d", "a\0"] {
            assert!(!is_interface_name(bad), "{bad:?}");
            let error = judge(json!({bad: {}}), None).expect_err(bad);
            assert!(error.to_string().contains("`linux.netDevices["), "{error}");
        }
    }

    #[test]
    fn each_rule_names_its_field() {
        for (devices, field) in [
            (json!({"eth0": {"name": "a b"}}), "linux.netDevices[eth0].name"),
            (json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}}), "linux.netDevices[eth1].name"),
            (json!({"eth0": {"name": "eth1"}, "eth1": {}}), "linux.netDevices[eth1].name"),
            (json!({"eth0": {"name": "lo"}}), "linux.netDevices[eth0].name"),
        ] {
            let error = judge(devices, None).expect_err(field);
            assert!(error.to_string().contains(&format!("`{field}`")), "{error} should name {field}");
        }
        judge(json!({"eth0": {"name": ""}, "eth1": {"name": null}}), None).expect("the names stay");
        let error = judge(json!({"eth0": {}}), Some(json!([{"type": "mount"}]))).expect_err("nowhere to go");
        assert!(
            error.to_string().contains("unable to move network devices without a NET namespace"),
            "{error}"
        );
        judge(json!({}), Some(json!([{"type": "mount"}]))).expect("nothing to move");
    }
}
