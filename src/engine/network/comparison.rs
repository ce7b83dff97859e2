// SPDX-License-Identifier: Apache-2.0
//! A new network namespace, to tell what somebody has changed in a container's. Both have hundreds of parameters: they are read
//! on a thread beside whoever asks, and waited for at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use crate::sys::namespace::beside_with_new_network_namespace;
use crate::sys::netlink::{Link, Netlink};
use crate::sys::{net, network_parameters};
use crate::{Context, Result};

type Parameters = BTreeMap<String, String>;

/// What is asked of the two namespaces.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The interfaces of the new one, once.
    links: Receiver<Vec<Link>>,
    known_links: OnceLock<Vec<Link>>,
    parameters: JoinHandle<io::Result<Parameters>>,
}

impl Comparison {
    /// Begins to look at the namespace of a container, and at a new one.
    pub(super) fn begin(namespace: &File) -> Result<Self> {
        let namespace = namespace.try_clone().context(|| "duplicate a descriptor")?;
        let (sender, links) = mpsc::sync_channel(1);
        let parameters = beside_with_new_network_namespace(namespace.into(), move |namespaces| {
            // Some parameters of `lo` depend on it.
            net::bring_loopback_up()?;
            // Nobody waits for it where no interface raises the question.
            drop(sender.send(Netlink::open()?.links()?));
            namespaces.enter_given()?;
            let own = network_parameters::read()?;
            namespaces.enter_new()?;
            // One that only the new one has is none that a restore must set.
            let new = network_parameters::read_named(own.keys())?;
            Ok(changed(&own, &new))
        });
        let parameters = parameters.context(|| "start a thread to look at a network namespace")?;
        Ok(Self { links, known_links: OnceLock::new(), parameters })
    }

    /// Whether a new namespace has an interface of this name and kind.
    pub(super) fn has_link(&self, link: &Link) -> Result<bool> {
        let links = match self.known_links.get() {
            Some(links) => links,
            None => {
                let context = || "list the interfaces of a new network namespace";
                let gone = |_| io::Error::other("it could not be made");
                let links = self.links.recv().map_err(gone).context(context)?;
                self.known_links.get_or_init(|| links)
            }
        };
        Ok(links.iter().any(|new| new.name == link.name && new.kind == link.kind))
    }

    /// The parameters of the container's that a restore must set.
    pub(super) fn changed_parameters(self) -> Result<Parameters> {
        let read = self.parameters.join();
        read.unwrap_or_else(|_| Err(io::Error::other("the thread that reads them has panicked")))
            .context(|| "compare its parameters with those of a new network namespace")
    }
}

/// The parameters that are not as in a new namespace, and those that the kernel sets together with one of these. Those of
/// an interface that a new one does not have are compared with the ones for new interfaces.
pub(super) fn changed(
    parameters: &BTreeMap<String, String>,
    reference: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let usual = |name: &str| {
        reference.get(name).or_else(|| {
            let mut parts: Vec<&str> = name.split('/').collect();
            if let [_, "conf" | "neigh", interface, _] = &mut parts[..] {
                *interface = "default";
            }
            reference.get(&parts.join("/"))
        })
    };
    let differs = |name: &str| parameters.get(name).is_some_and(|value| usual(name) != Some(value));
    let follows = |name: &str| match name.split('/').collect::<Vec<_>>()[..] {
        [family, kind @ ("conf" | "neigh"), _, key] => {
            ["all", "default"].iter().any(|of| differs(&format!("{family}/{kind}/{of}/{key}")))
                || (family == "ipv4"
                    && ["accept_redirects", "forwarding"].contains(&key)
                    && differs("ipv4/ip_forward"))
        }
        _ => false,
    };
    let kept = parameters.iter().filter(|(name, _)| differs(name) || follows(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_somebody_has_changed_is_kept() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let new = map(&[
            ("core/somaxconn", "4096"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
        ]);
        let own = map(&[
            ("core/somaxconn", "777"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "2"),
            ("ipv4/conf/eth1/rp_filter", "0"),
            ("other/new", "1"),
        ]);
        let expected =
            map(&[("core/somaxconn", "777"), ("ipv4/conf/eth0/rp_filter", "2"), ("other/new", "1")]);
        assert_eq!(changed(&own, &new), expected);
    }

    #[test]
    fn what_the_kernel_sets_together_with_another_is_kept_too() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let new = map(&[
            ("ipv4/conf/all/accept_redirects", "1"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/lo/accept_local", "0"),
            ("ipv4/conf/lo/rp_filter", "0"),
            ("ipv4/ip_forward", "0"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/lo/disable_ipv6", "0"),
        ]);
        let mut own = new.clone();
        for (name, value) in [
            ("ipv4/conf/default/rp_filter", "2"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/disable_ipv6", "1"),
        ] {
            own.insert(name.to_owned(), value.to_owned());
        }
        let mut expected = own.clone();
        expected.remove("ipv4/conf/lo/accept_local");
        assert_eq!(changed(&own, &new), expected);
    }
}
