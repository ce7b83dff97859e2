// SPDX-License-Identifier: Apache-2.0
//! Members, sizes, records, the index and the manifest.

use serde_json::{Value, json};

use crate::archive::{
    Archive, CHARACTER, DIRECTORY, Entry, FIFO, GLOBAL, GNU_LONG_NAME, GNU_SPARSE, HARD_LINK, SYMLINK,
};
use crate::{Case, bad, refused};

/// With one more entry among the images.
fn image(mut archive: Archive, entries: &[Entry]) -> Vec<u8> {
    for entry in entries.iter().rev() {
        archive.image(entry.clone());
    }
    archive.bytes()
}

/// With another index.
fn index(archive: &Archive, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut index = archive.index();
    change(&mut index);
    archive.with_index(index.to_string().as_bytes())
}

/// With a size field in base 256.
fn sized(bytes: [u8; 4]) -> Entry {
    let mut size = [0; 12];
    size[..4].copy_from_slice(&bytes);
    Entry { size: Some(size), ..Entry::file("checkpoint/0", b"x") }
}

fn octal(size: &[u8; 12]) -> Entry {
    Entry { size: Some(*size), ..Entry::file("checkpoint/0", b"x") }
}

/// A frame that says that it needs a window of 2 GiB.
const LARGE_WINDOW: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];

/// An image of which nothing is there.
fn exabyte() -> Entry {
    let mut size = [0; 12];
    size[0] = 0x80;
    size[4..].copy_from_slice(&(1_u64 << 60).to_be_bytes());
    Entry { size: Some(size), ..Entry::file("checkpoint/0", b"") }
}

const MEMBERS: [Case; 16] = [
    bad("absolute", "member /etc/cron.d/x", |a| image(a, &[Entry::file("/etc/cron.d/x", b"x")])),
    bad("parent", "member checkpoint/../../x", |a| image(a, &[Entry::file("checkpoint/../../x", b"x")])),
    bad("dot", "member checkpoint/./x", |a| image(a, &[Entry::file("checkpoint/./x", b"x")])),
    bad("slashes", "member checkpoint//x", |a| image(a, &[Entry::file("checkpoint//x", b"x")])),
    bad("not UTF-8", "not UTF-8", |a| {
        let name = b"checkpoint/\xff".to_vec();
        image(a, &[Entry { name, ..Entry::file("", b"x") }])
    }),
    bad("image is a link", "checkpoint/0: only regular files", |a| {
        image(a, &[Entry::link("checkpoint/0", SYMLINK, "/etc/passwd")])
    }),
    bad("image is a hard link", "checkpoint/0: only regular files", |a| {
        image(a, &[Entry::link("checkpoint/0", HARD_LINK, "spec.dump")])
    }),
    bad("image is a fifo", "checkpoint/0: only regular files", |a| {
        image(a, &[Entry::new("checkpoint/0", FIFO, b"")])
    }),
    bad("image is a device", "checkpoint/0: only regular files", |a| {
        image(a, &[Entry::device("checkpoint/0", CHARACTER, 1, 3)])
    }),
    bad("a directory that is a file", "checkpoint/0", |a| {
        image(a, &[Entry::file("checkpoint/0", b"x"), Entry::file("checkpoint/0/x", b"x")])
    }),
    bad("a directory that is not there", "checkpoint/sub/x", |a| {
        image(a, &[Entry::file("checkpoint/sub/x", b"x")])
    }),
    bad("a file named as a directory", "only regular files", |a| {
        image(a, &[Entry::file("checkpoint/sub/", b"")])
    }),
    bad("a directory named as a file", "only regular files", |a| {
        image(a, &[Entry::new("checkpoint/sub", DIRECTORY, b"")])
    }),
    bad("twice", "checkpoint/0 is there twice", |a| {
        image(a, &[Entry::file("checkpoint/0", b"x"), Entry::file("checkpoint/0", b"y")])
    }),
    bad("the configuration twice", "spec.dump", |mut a| {
        let at = a.position("spec.dump");
        a.members.insert(at, a.members[at].clone());
        a.bytes()
    }),
    bad("no configuration", "", |mut a| {
        let at = a.position("spec.dump");
        a.members.remove(at);
        a.bytes()
    }),
];

const SIZES: [Case; 12] = [
    bad("negative", "", |a| image(a, &[sized([0xff, 0xff, 0xff, 0xff])])),
    bad("beyond 64 bits", "", |a| image(a, &[sized([0x80, 0xff, 0xff, 0xff])])),
    bad("not octal", "", |a| image(a, &[octal(b"9999999999 \0")])),
    bad("beyond the file", "truncated", |a| image(a, &[octal(b"77777777777\0")])),
    bad("an exabyte of nothing", "", |a| image(a, &[exabyte()])),
    bad("a checksum", "checksum", |a| {
        image(a, &[Entry { bad_checksum: true, ..Entry::file("checkpoint/0", b"x") }])
    }),
    bad("a window of gigabytes", "", |_| LARGE_WINDOW.to_vec()),
    bad("a long configuration", "spec.dump", |mut a| {
        a.member("spec.dump").data = vec![b' '; (64 << 20) + 1];
        a.bytes()
    }),
    bad("cut in a header", "truncated", |a| a.bytes()[..700].to_vec()),
    bad("cut in the index", "truncated", |a| {
        let bytes = a.bytes();
        bytes[..bytes.len() - 1024 - 600].to_vec()
    }),
    bad("without its end", "truncated", |a| {
        let bytes = a.bytes();
        bytes[..bytes.len() - 1024].to_vec()
    }),
    bad("with something behind its end", "", |a| [&a.bytes()[..], b"more"].concat()),
];

const RECORDS: [Case; 13] = [
    bad("a path that leads out", "../x", |a| {
        image(a, &[Entry::record("path", b"checkpoint/../../x"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a path with a NUL", "", |a| {
        image(a, &[Entry::record("path", b"checkpoint/a\0b"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a path of 5000 bytes", "", |a| {
        image(a, &[Entry::record("path", &[b'x'; 5000]), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a negative size", "", |a| {
        image(a, &[Entry::record("size", b"-1"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a size beyond 64 bits", "", |a| {
        image(a, &[Entry::record("size", b"99999999999999999999"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a size that is a word", "", |a| {
        image(a, &[Entry::record("size", b"many"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a sparse map", "", |a| {
        image(a, &[Entry::record("GNU.sparse.map", b"0,1"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a length that is too long", "malformed", |a| {
        image(a, &[Entry::new("r", b'x', b"99 path=x\n"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("a length that is none", "malformed", |a| {
        image(a, &[Entry::new("r", b'x', b"-5 path=x\n"), Entry::file("checkpoint/0", b"x")])
    }),
    bad("too many bytes", "", |a| {
        image(a, &[Entry::new("r", b'x', &vec![b'7'; 5 << 20]), Entry::file("checkpoint/0", b"x")])
    }),
    bad("for all entries", "unknown type", |a| image(a, &[Entry::new("g", GLOBAL, b"9 path=x\n")])),
    bad("GNU's long name", "unknown type", |a| image(a, &[Entry::new("x", GNU_LONG_NAME, b"../../x\0")])),
    bad("GNU's sparse file", "unknown type", |a| image(a, &[Entry::new("checkpoint/0", GNU_SPARSE, b"x")])),
];

const INDEXES: [Case; 11] = [
    bad("another digest", "SHA-256", |a| index(&a, |i| i["members"][1]["sha256"] = "0".repeat(64).into())),
    bad("a digest that is none", "SHA-256", |a| index(&a, |i| i["members"][1]["sha256"] = "g".into())),
    bad("another size", "size", |a| index(&a, |i| i["members"][1]["size"] = json!(7))),
    bad("a negative size", "not an index", |a| index(&a, |i| i["members"][1]["size"] = json!(-7))),
    bad("another offset", "offset", |a| index(&a, |i| i["members"][1]["offset"] = json!(7))),
    bad("another name", "name", |a| index(&a, |i| i["members"][1]["name"] = json!("../x"))),
    bad("one fewer", "not listed", |a| {
        index(&a, |i| drop(i["members"].as_array_mut().expect("a list").pop()))
    }),
    bad("one more", "missing", |a| {
        index(&a, |i| {
            let list = i["members"].as_array_mut().expect("a list");
            list.push(json!({"name": "x", "size": 0, "offset": 0, "sha256": "0".repeat(64)}));
        })
    }),
    bad("another sum", "counts", |a| index(&a, |i| i["total"]["bytes"] = json!(u64::MAX))),
    bad("deep", "not an index", |a| a.with_index("[".repeat(100_000).as_bytes())),
    bad("two of them", "migrate.index", |mut a| {
        let index = a.index().to_string();
        a.members.push(Entry::file("migrate.index", index.as_bytes()));
        a.bytes()
    }),
];

const MANIFESTS: [Case; 9] = [
    bad("of the future", "999", |mut a| {
        a.json("migrate.json", |m| m["schema"] = json!(999));
        a.bytes()
    }),
    bad("a negative schema", "migrate.json", |mut a| {
        a.json("migrate.json", |m| m["schema"] = json!(-1));
        a.bytes()
    }),
    bad("another layout", "layout", |mut a| {
        a.json("migrate.json", |m| m["layout"] = json!("../../etc"));
        a.bytes()
    }),
    bad("an id that is a number", "migrate.json", |mut a| {
        a.json("migrate.json", |m| m["id"] = json!(7));
        a.bytes()
    }),
    bad("an absurd version", "migrate.json", |mut a| {
        a.json("migrate.json", |m| m["criu"]["number"] = json!(1e300));
        a.bytes()
    }),
    bad("deep", "migrate.json", |mut a| {
        a.member("migrate.json").data = "[".repeat(100_000).into();
        a.bytes()
    }),
    bad("long", "migrate.json", |mut a| {
        a.member("migrate.json").data.resize((1 << 20) + 1, b' ');
        a.bytes()
    }),
    bad("not JSON", "migrate.json", |mut a| {
        a.member("migrate.json").data = b"hello".into();
        a.bytes()
    }),
    bad("a link", "migrate.json", |mut a| {
        *a.member("migrate.json") = Entry::link("migrate.json", SYMLINK, "/etc/passwd");
        a.bytes()
    }),
];

#[test]
fn members() {
    refused(&MEMBERS);
}

#[test]
fn sizes_and_ends() {
    refused(&SIZES);
}

#[test]
fn records() {
    refused(&RECORDS);
}

#[test]
fn indexes() {
    refused(&INDEXES);
}

#[test]
fn manifests() {
    refused(&MANIFESTS);
}
