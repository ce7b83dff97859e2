// SPDX-License-Identifier: Apache-2.0
//! `network.status`: a container's addresses in the words of Podman, which gives an imported container the same ones in a network
//! of the same name. Others show them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::engine::{AddressedInterface, Container};
use crate::spec::Config;
use crate::{Context, Result};

/// Podman's own network, and its bridge.
const PODMAN: (&str, &str) = ("podman", "podman0");

/// A network that no engine has a name for. Podman has none of this name either, and so chooses addresses itself.
const NAMELESS: &str = "migrate";

/// The member's bytes, as it is now. `null` for a container without addresses of its own, or one that has ended.
pub(super) fn of(container: &Container, config: &Config) -> Result<Vec<u8>> {
    let interfaces = match container.init() {
        Some(init) => container.addressed_interfaces(config, init)?,
        None => Vec::new(),
    };
    let mut bytes = serde_json::to_vec(&status(&interfaces)).context(|| "write network.status")?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn status(interfaces: &[AddressedInterface]) -> Value {
    let mut networks = Map::new();
    for interface in interfaces {
        let name = match interface.bridge.as_deref() {
            Some(bridge) if bridge == PODMAN.1 => PODMAN.0,
            Some(bridge) => bridge,
            None => NAMELESS,
        };
        let network = networks.entry(name).or_insert_with(|| json!({ "interfaces": {} }));
        network["interfaces"][&interface.name] = described(interface);
    }
    if networks.is_empty() { Value::Null } else { Value::Object(networks) }
}

fn described(interface: &AddressedInterface) -> Value {
    let subnets: Vec<Value> =
        interface.addresses.iter().map(|address| subnet(*address, &interface.gateways)).collect();
    let mut described = json!({ "subnets": subnets });
    if let Some(mac) = interface.mac {
        let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        described["mac_address"] = bytes.join(":").into();
    }
    described
}

fn subnet((address, prefix): (IpAddr, u8), gateways: &[IpAddr]) -> Value {
    let mut subnet = json!({ "ipnet": format!("{address}/{prefix}") });
    if let Some(gateway) = gateways.iter().find(|gateway| gateway.is_ipv4() == address.is_ipv4()) {
        subnet["gateway"] = gateway.to_string().into();
    }
    subnet
}
