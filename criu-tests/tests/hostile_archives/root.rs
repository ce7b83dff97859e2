// SPDX-License-Identifier: Apache-2.0
//! What is in the root filesystem.

use crate::archive::{Archive, BLOCK_DEVICE, CHARACTER, Entry, HARD_LINK, SYMLINK};
use crate::{Case, bad, refused};

/// With this root filesystem instead of its own.
fn root(archive: &Archive, entries: &[Entry]) -> Vec<u8> {
    archive.with_root(entries).bytes()
}

/// With this in its place.
fn other(mut archive: Archive, data: &[u8]) -> Vec<u8> {
    archive.root().data = data.to_vec();
    archive.bytes()
}

const CASES: [Case; 17] = [
    bad("absolute", "/etc/cron.d/x", |a| root(&a, &[Entry::file("/etc/cron.d/x", b"x")])),
    bad("parent", "..", |a| root(&a, &[Entry::file("../../witness", b"x")])),
    bad("through a link", "not a directory", |a| {
        root(&a, &[Entry::link("etc", SYMLINK, "/etc"), Entry::file("etc/cron.d", b"x")])
    }),
    bad("through a link upwards", "not a directory", |a| {
        root(&a, &[Entry::link("up", SYMLINK, "../../../.."), Entry::file("up/witness", b"x")])
    }),
    bad("a directory that becomes a link", "twice", |a| {
        let link = Entry::link("d", SYMLINK, "/");
        root(&a, &[Entry::directory("d/"), link, Entry::file("d/x", b"x")])
    }),
    bad("a link that becomes a directory", "", |a| {
        root(&a, &[Entry::link("d", SYMLINK, "/"), Entry::directory("d/"), Entry::file("d/x", b"x")])
    }),
    bad("a hard link outwards", "", |a| root(&a, &[Entry::link("x", HARD_LINK, "../../../witness")])),
    bad("an absolute hard link", "", |a| root(&a, &[Entry::link("x", HARD_LINK, "/etc/passwd")])),
    bad("a hard link through a link", "", |a| {
        root(&a, &[Entry::link("d", SYMLINK, "/etc"), Entry::link("x", HARD_LINK, "d/passwd")])
    }),
    bad("a hard link to a directory", "", |a| {
        root(&a, &[Entry::directory("d/"), Entry::link("x", HARD_LINK, "d")])
    }),
    bad("twice", "twice", |a| root(&a, &[Entry::file("x", b"1"), Entry::file("x", b"2")])),
    bad("twice, once as a directory", "", |a| root(&a, &[Entry::file("x", b"1"), Entry::directory("x/")])),
    bad("a disk", "sda", |a| root(&a, &[Entry::device("sda", BLOCK_DEVICE, 8, 0)])),
    bad("memory as a device", "mem", |a| root(&a, &[Entry::device("mem", CHARACTER, 1, 1)])),
    bad("null as a block device", "null", |a| root(&a, &[Entry::device("null", BLOCK_DEVICE, 1, 3)])),
    bad("half an end", "", |a| other(a, &[0; 512])),
    bad("no tar", "", |a| other(a, &[b'x'; 2048])),
];

#[test]
fn root_filesystems() {
    refused(&CASES);
}
