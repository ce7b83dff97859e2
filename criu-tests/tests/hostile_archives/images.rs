// SPDX-License-Identifier: Apache-2.0
//! What lies among CRIU's images: the files of ours, and those of CRIU's that are looked into before CRIU is started.

use crate::archive::{Archive, Entry};
use crate::{Case, bad, refused};

/// With this image, in the place of one of its name if there is one.
fn with(mut archive: Archive, name: &str, data: &[u8]) -> Vec<u8> {
    let name = format!("checkpoint/{name}");
    archive.members.retain(|member| member.name != name.as_bytes());
    archive.image(Entry::file(&name, data));
    archive.bytes()
}

const CASES: [Case; 12] = [
    bad("network.json, no JSON", "network.json", |a| with(a, "network.json", b"{")),
    bad("network.json, an interface's name", "../x", |a| {
        let link = r#"{"name":"../x","index":1,"up":true,"mtu":1,"queue_length":1,"origin":"outside"}"#;
        with(a, "network.json", format!(r#"{{"schema":1,"content":"engine","links":[{link}]}}"#).as_bytes())
    }),
    bad("network.json, a record", "network.json", |a| {
        let record = r#"{"kind":"route","body":"00"}"#;
        let text = format!(r#"{{"schema":1,"content":"engine","records":[{record}]}}"#);
        with(a, "network.json", text.as_bytes())
    }),
    bad("threads.json, deep", "threads.json", |a| with(a, "threads.json", "[".repeat(9999).as_bytes())),
    bad("threads.json, processors", "threads.json", |a| {
        with(a, "threads.json", br#"{"schema":1,"threads":[{"id":1,"processors":[4294967295]}]}"#)
    }),
    bad("cgroups.json, no JSON", "cgroups.json", |a| with(a, "cgroups.json", b"hello")),
    bad("cgroups.json, a path that leads out", "../x", |a| {
        let group = r#"{"path":"../x","owner":null,"values":[],"tasks":[]}"#;
        let tree = format!(r#"{{"controllers":[],"version":"v2","given":"","groups":[{group}]}}"#);
        with(a, "cgroups.json", format!(r#"{{"schema":1,"hierarchies":[{tree}]}}"#).as_bytes())
    }),
    bad("descriptors.json, no list", "descriptors.json", |a| with(a, "descriptors.json", b"{}")),
    bad("descriptors.json, long", "descriptors.json", |a| with(a, "descriptors.json", &vec![b' '; 5 << 20])),
    bad("the inventory is not there", "inventory.img", |mut a| {
        a.members.retain(|member| member.name != b"checkpoint/inventory.img");
        a.bytes()
    }),
    bad("mounts that are none", "mountpoints-", |mut a| {
        let is_mounts = |m: &&mut Entry| m.name.starts_with(b"checkpoint/mountpoints-");
        a.members.iter_mut().find(is_mounts).expect("there are mounts").data = b"hello".into();
        a.bytes()
    }),
    bad("memory that is cut short", "pages-", |mut a| {
        let is_pages = |m: &&mut Entry| m.name.starts_with(b"checkpoint/pages-");
        a.members.iter_mut().find(is_pages).expect("there is memory").data.truncate(4096);
        a.bytes()
    }),
];

#[test]
fn images() {
    refused(&CASES);
}
