// SPDX-License-Identifier: Apache-2.0
//! What has gone through the interfaces that the engine has made for a container.

use serde::Serialize;

use crate::engine::Container;
use crate::sys::netlink::Netlink;
use crate::{Context, Result};

/// What has gone through one interface, seen from the container. Serialised in runc's form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct NetworkInterface {
    /// The name of the host's end.
    pub name: String,
    /// Bytes that the container received.
    pub rx_bytes: u64,
    /// Packets that the container received.
    pub rx_packets: u64,
    /// Packets that should have reached the container and were bad.
    pub rx_errors: u64,
    /// Packets that should have reached the container and were dropped.
    pub rx_dropped: u64,
    /// Bytes that the container sent.
    pub tx_bytes: u64,
    /// Packets that the container sent.
    pub tx_packets: u64,
    /// Packets of the container's that were bad.
    pub tx_errors: u64,
    /// Packets of the container's that were dropped.
    pub tx_dropped: u64,
}

impl Container {
    /// What has gone through the interfaces that it was given as networks: one entry each, in their order. Interfaces that
    /// others have made for it are not among them.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`](crate::ErrorKind::WrongStatus) when it has stopped; else that of asking the kernel.
    pub fn network_stats(&self) -> Result<Vec<NetworkInterface>> {
        self.require_running()?;
        let ends = &self.state().network.host_ends;
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let here = Netlink::open().context(|| "connect to the host's network by netlink")?;
        let mut interfaces = Vec::new();
        for end in ends {
            let mut interface = NetworkInterface { name: end.name.clone(), ..NetworkInterface::default() };
            let link = here.link(&end.name).context(|| format!("read the statistics of {}", end.name))?;
            if let Some(link) = link.filter(|link| end.index == Some(link.index)) {
                // What the host's end sends is what the container receives.
                let host = link.statistics;
                (interface.rx_bytes, interface.tx_bytes) = (host.tx_bytes, host.rx_bytes);
                (interface.rx_packets, interface.tx_packets) = (host.tx_packets, host.rx_packets);
                (interface.rx_errors, interface.tx_errors) = (host.tx_errors, host.rx_errors);
                (interface.rx_dropped, interface.tx_dropped) = (host.tx_dropped, host.rx_dropped);
            }
            interfaces.push(interface);
        }
        Ok(interfaces)
    }
}
