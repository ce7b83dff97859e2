// SPDX-License-Identifier: Apache-2.0
//! On a real kernel, as root: mounts that are filled or mapped before the container sees them, and mounts whose source
//! or place is another mount of the container's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::{Value, json};

use super::tests::{Bundle, in_namespace, mounted};
use super::*;

fn procfs() -> Value {
    json!({"destination": "/proc", "type": "proc", "source": "proc"})
}

fn build(bundle: &Bundle) {
    let plan = bundle.plan();
    let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
    built.unwrap_or_else(|error| panic!("{}", error.chain()));
}

#[test]
fn a_tmpfs_with_tmpcopyup_begins_as_the_directory_beneath() {
    let bundle = Bundle::with_mounts(json!([
        procfs(),
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "ro", "size=4m"]},
        {"destination": "/made", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]},
        {"destination": "/old", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "silent", "mode=0711"]},
    ]));
    let data = bundle.mkdir("rootfs/data");
    bundle.mkdir("rootfs/data/sub/deep");
    bundle.mkdir("rootfs/old");
    bundle.write("rootfs/old/file", "old");
    bundle.write("rootfs/data/sub/deep/file", "content");
    bundle.write("secret", "of the host");
    fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o3770)).expect("chmod");
    fs::set_permissions(data.join("sub/deep/file"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    chown(data.join("sub/deep/file"), Some(7), Some(9)).expect("chown");
    fs::set_permissions(data.join("sub/deep/file"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    symlink(bundle.host("secret"), data.join("link")).expect("symlink");
    lchown(data.join("link"), Some(3), Some(4)).expect("lchown");
    mknod(&data.join("pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o622), 0).expect("mkfifo");
    mknod(&data.join("zero"), SFlag::S_IFCHR, Mode::S_IRUSR, libc::makedev(1, 5)).expect("mknod");
    chown(&data, Some(5), Some(6)).expect("chown");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).expect("chmod");
    let before = fs::metadata(data.join("sub/deep/file")).expect("stat").mtime_nsec();
    bundle.inside(|| {
        let stat = |path: &str| fs::symlink_metadata(path).expect(path);
        let is = |path: &str| (stat(path).mode() & 0o7777, stat(path).uid(), stat(path).gid());
        assert_eq!(mounted("/data").fstype, "tmpfs");
        assert!(mounted("/data").has_option("ro"), "read-only once it is filled");
        assert_eq!(is("/data"), (0o750, 5, 6));
        assert_eq!(is("/data/sub"), (0o3770, 0, 0));
        assert_eq!(is("/data/sub/deep/file"), (0o4755, 7, 9));
        assert_eq!(stat("/data/sub/deep/file").mtime_nsec(), before);
        assert_eq!(fs::read_to_string("/data/sub/deep/file").expect("read"), "content");
        assert_eq!(fs::read_link("/data/link").expect("a link"), bundle.host("secret"), "not followed");
        assert_eq!((stat("/data/link").uid(), stat("/data/link").gid()), (3, 4));
        assert!(stat("/data/pipe").file_type().is_fifo());
        assert_eq!(stat("/data/zero").rdev(), libc::makedev(1, 5));
        assert_eq!(is("/made").0, 0o1777);
        assert_eq!(fs::read_dir("/made").expect("list").count(), 0);
        assert_eq!((fs::read_to_string("/old/file").expect("read"), is("/old").0), ("old".into(), 0o711));
        fs::write("/old/file", "changed").expect("a copy of our own");
    });
    assert_eq!(fs::read_to_string(bundle.rootfs("old/file")).expect("read"), "old");
}

#[test]
fn a_copy_that_does_not_fit_is_an_error() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "size=4k"]},
    ]));
    bundle.mkdir("rootfs/data");
    bundle.write("rootfs/data/large", &"x".repeat(100_000));
    let error = bundle.refused();
    assert_eq!(error.errno(), Some(libc::ENOSPC), "{}", error.chain());
    assert!(error.chain().contains("copy large into the tmpfs"), "{}", error.chain());
}

/// `idmap` reaches one mount, `ridmap` the tree; what is written comes back mapped.
#[test]
fn owners_are_mapped_in_one_mount_or_in_the_tree() {
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 100}]);
    let bind = |destination: &str, words: &[&str]| {
        json!({"destination": destination, "source": "source", "options": words,
        "uidMappings": map, "gidMappings": [{"containerID": 0, "hostID": 7000, "size": 100}]})
    };
    let bundle = Bundle::with_mounts(json!([
        procfs(),
        bind("/one", &["rbind"]),
        bind("/flags", &["rbind", "idmap", "ro", "nosuid"]),
        bind("/tree", &["rbind", "ridmap", "rprivate"]),
        {"destination": "/plain", "source": "source", "options": ["rbind"]},
    ]));
    let source = bundle.mkdir("source");
    bundle.mkdir("source/sub");
    bundle.write("source/file", "");
    chown(source.join("file"), Some(1), Some(2)).expect("chown");
    in_namespace(|| {
        let none = None::<&str>;
        mount(Some("t"), &source.join("sub"), Some("tmpfs"), MsFlags::empty(), none).expect("mount");
        fs::write(source.join("sub/file"), "").expect("write");
        build(&bundle);
        let owner = |path: &str| {
            let stat = fs::metadata(path).expect(path);
            (stat.uid(), stat.gid())
        };
        assert_eq!((owner("/plain/file"), owner("/plain/sub/file")), ((1, 2), (0, 0)));
        assert_eq!((owner("/one/file"), owner("/one/sub/file")), ((5001, 7002), (0, 0)));
        assert_eq!((owner("/tree/file"), owner("/tree/sub/file")), ((5001, 7002), (5000, 7000)));
        assert_eq!(owner("/flags/file"), (5001, 7002));
        assert!(mounted("/flags").options.starts_with("ro,nosuid"), "{}", mounted("/flags").options);
        // Root has no id in the mapping's outside, so it cannot own anything there.
        let error = fs::write("/one/new", "").expect_err("0 is not mapped");
        assert_eq!(error.raw_os_error(), Some(libc::EOVERFLOW));
    });
}

#[test]
fn a_filesystem_that_cannot_be_mapped_is_told() {
    let map = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/a", "source": "/proc", "options": ["bind"], "uidMappings": map, "gidMappings": map},
    ]));
    let error = bundle.refused();
    assert_eq!(error.errno(), Some(libc::EINVAL), "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("id-mapped")), "{}", error.chain());
}

/// Sources lie in mounts made before, and destinations are given from the host's root.
#[test]
fn binds_of_binds_see_what_was_mounted_before() {
    let mut bundle = Bundle::with_mounts(json!([]));
    for path in ["a/x", "b/y", "c/z"] {
        let directory = bundle.mkdir(path);
        fs::write(directory.join("file"), path).expect("write");
        let (top, _) = path.split_once('/').expect("two names");
        symlink(top, bundle.host(&format!("sym-{top}"))).expect("symlink");
    }
    bundle.mkdir("rootfs/mnt");
    let rootfs = bundle.host("rootfs").display().to_string();
    let bind = |source: &str, destination: &str| json!({"source": source, "destination": destination, "type": "bind", "options": ["rbind", "rprivate"]});
    bundle.config["mounts"] = json!([
        procfs(),
        bind("a", "/mnt"),
        bind("sym-b", "/mnt/x"),
        bind("c", "/mnt/x/y"),
        bind("sym-a", "/mnt/x/y/z"),
        bind(&format!("{rootfs}/mnt/x"), &format!("{rootfs}/mnt/x/y/z/x")),
        bind(&format!("{rootfs}/mnt/x/y"), &format!("{rootfs}/mnt/x/y/z")),
        bind(&format!("{rootfs}/mnt"), &format!("{rootfs}/final")),
    ]);
    bundle.inside(|| {
        let text = fs::read_to_string("/final/x/y/z/z/x/y/z/x/file").expect("the whole tree was copied");
        assert_eq!(text, "a/x");
    });
}

/// As engines mount their init program.
#[test]
fn a_file_is_bound_into_a_tmpfs_that_becomes_read_only() {
    let bundle = Bundle::with_mounts(json!([
        procfs(),
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "ro"]},
        {"destination": "/dev/init", "type": "bind", "source": "program", "options": ["bind", "ro"]},
    ]));
    bundle.write("program", "init");
    bundle.inside(|| {
        assert_eq!(fs::read_to_string("/dev/init").expect("read"), "init");
        assert!(mounted("/dev").has_option("ro") && Path::new("/dev/null").exists());
        let error = fs::write("/dev/x", "").expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    });
}

#[test]
fn missing_parents_inherit_the_group_of_a_set_group_id_directory() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/setgid/a/b", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nosuid"]},
    ]));
    fs::set_permissions(bundle.mkdir("rootfs/setgid"), fs::Permissions::from_mode(0o7755)).expect("chmod");
    bundle.inside(|| ());
    for path in ["setgid/a", "setgid/a/b"] {
        let mode = fs::metadata(bundle.rootfs(path)).expect("stat").mode();
        assert_eq!(mode & 0o7777, 0o2755, "{path}");
    }
}

/// `nosymfollow` for a bind and for a new filesystem.
#[test]
fn links_on_a_mount_can_be_left_unfollowed() {
    let bundle = Bundle::with_mounts(json!([
        procfs(),
        {"destination": "/bound", "source": "source", "options": ["bind", "nosymfollow"]},
        {"destination": "/new", "type": "tmpfs", "source": "t", "options": ["nosymfollow"]},
    ]));
    symlink("/proc", bundle.mkdir("source").join("link")).expect("symlink");
    bundle.inside(|| {
        symlink("/proc", "/new/link").expect("symlink");
        for path in ["/bound/link", "/new/link"] {
            let error = fs::metadata(path).expect_err("not followed");
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path}");
        }
    });
}
