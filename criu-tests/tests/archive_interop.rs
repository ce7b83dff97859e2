// SPDX-License-Identifier: Apache-2.0
//! One archive for all: what `migrate checkpoint --export` writes is restored by Podman, and shown by checkpointctl; and what
//! Podman, CRI-O and containerd write is restored by `migrate restore --import`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use criu_tests::{
    Bundle, Container, DockerRegistry, Host, Need, PATIENCE, Podman, Stage, checkpointctl, wait_until,
};
use serde_json::json;

/// Counts into a file of its root filesystem, and has a file in a tmpfs.
const COUNTS: &str = "rm /etc/group; echo kept >/dev/shm/f; i=0; \
                      while :; do i=$((i+1)); echo $i >/tmp/m; mv /tmp/m /tmp/n; sleep 0.1; done";

/// A container of ours whose root filesystem is that of Podman's image, with a directory of the host at `/data`.
fn counting<'h>(host: &'h Host, id: &str) -> (Bundle, Container<'h>) {
    // Where cgroup v2 is beside v1, runc asks CRIU for a cgroup in it that nobody has made: it is put into its own anyway.
    let further = host.path("criu.conf");
    fs::write(&further, "manage-cgroups ignore\n").expect("write");
    let data = host.path("data");
    fs::create_dir(&data).expect("mkdir");
    fs::write(format!("{data}/file"), "from outside").expect("write");
    let bundle = Bundle::new(host, "counts", &[]).edit(|config| {
        let mount = json!({"destination": "/data", "type": "bind", "source": data, "options": ["rbind"]});
        config["mounts"].as_array_mut().expect("a list").push(mount);
        config["process"]["args"] = json!(["/bin/sh", "-c", COUNTS]);
        config["annotations"] = json!({"org.criu.config": further});
    });
    let (image, rootfs) = (host.path("image/."), bundle.rootfs());
    host.command(&["cp", "-a", &image, &rootfs]).run().succeeded();
    // CRIU compares the modes of open directories, and this is that of the roots which Podman makes.
    fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o555)).expect("chmod");
    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), id]);
    let container = host.container(id, &rootfs);
    counts_on(|| fs::read_to_string(format!("{rootfs}/tmp/n")).unwrap_or_default(), 3);
    (bundle, container)
}

/// Waits until the number in the file is beyond `last`; gives it.
#[track_caller]
fn counts_on(read: impl Fn() -> String, last: u64) -> u64 {
    wait_until(PATIENCE, &format!("it counts beyond {last}"), || {
        let text = read();
        text.trim().parse().ok().filter(|n| *n > last).ok_or(text)
    })
}

/// Through one archive to a Podman whose runtime has this name.
fn to_podman(runtime: &str, export: impl Fn(&Host) -> Vec<String>) {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let (id, archive) = (stage.id("web"), stage.path("web.tar.zst"));
    let (bundle, container) = counting(&host, &id);
    let image = format!("{}:latest", Podman::IMAGE);
    let mut flags = vec!["--export", &archive, "--rootfs-image", &image, "--target-runtime", runtime];
    flags.extend(["--include-volume", "/data"]);
    let more = export(&host);
    flags.extend(more.iter().map(String::as_str));
    container.checkpoint(&flags);
    let last = fs::read_to_string(format!("{}/tmp/n", bundle.rootfs())).expect("it has counted");
    let last: u64 = last.trim().parse().expect("a number");
    bundle.remove();
    fs::remove_dir_all(host.path("data")).expect("the host loses it");
    let has = |flag: &str| more.iter().any(|given| given == flag);
    let archive = if has("packed") {
        let full = stage.path("full.tar.zst");
        host.migrate(&["archives", "convert", &archive, &full, "--layout", "podman"]).succeeded();
        full
    } else {
        archive
    };
    podman.podman(&["container", "restore", "--import", &archive]).succeeded();
    counts_on(|| podman.executes(&id, "cat /tmp/n"), last + 2);
    assert_eq!(podman.executes(&id, "cat /dev/shm/f && cat /data/file"), "kept\nfrom outside");
    let volume = "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}";
    assert_eq!(podman.inspect(&id, volume), format!("volume {id}-1-data /data"));
    if has("--rootfs-base") {
        assert_eq!(podman.executes(&id, "ls /etc/group 2>/dev/null || echo gone"), "gone");
    }
    assert_eq!(podman.inspect(&id, "{{.OCIRuntime}} {{.ImageName}}"), format!("{runtime} {image}"));
    podman.end();
}

#[test]
fn to_podman_with_migrate() {
    to_podman("migrate", |_| Vec::new());
}

#[test]
fn to_podman_with_runc() {
    to_podman("runc", |_| Vec::new());
}

/// What is gone is gone there as well.
#[test]
fn to_podman_with_only_what_differs_from_the_image() {
    to_podman("migrate", |host| vec!["--rootfs-base".to_owned(), host.path("image")]);
}

#[test]
fn to_podman_from_a_packed_archive() {
    to_podman("migrate", |_| vec!["--layout".to_owned(), "packed".to_owned()]);
}

#[test]
fn to_podman_through_a_registry() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Registry, Need::Criu]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let registry = DockerRegistry::open(&host);
    let id = stage.id("web");
    let (bundle, container) = counting(&host, &id);
    let image = format!("{}/web:1", DockerRegistry::NAME);
    let base = format!("{}:latest", Podman::IMAGE);
    let flags = ["--tls-verify=false", "--rootfs-image", &base, "--include-volume", "/data"];
    container.checkpoint(&[&["--create-image", &image], &flags[..]].concat());
    let last = fs::read_to_string(format!("{}/tmp/n", bundle.rootfs())).expect("it has counted");
    let last: u64 = last.trim().parse().expect("a number");
    bundle.remove();
    podman.podman(&["pull", "-q", "--tls-verify=false", &image]).succeeded();
    podman.podman(&["container", "restore", &image]).succeeded();
    counts_on(|| podman.executes(&id, "cat /tmp/n"), last + 2);
    assert_eq!(podman.executes(&id, "cat /data/file"), "from outside");
    registry.end();
    podman.end();
}

/// A container of Podman's and runc's that has this volume, or directory of the host, checkpointed into `archive`. Gives how far it was.
fn checkpointed_by_podman(
    podman: &Podman<'_>,
    name: &str,
    source: &str,
    archive: &str,
    compress: &str,
) -> u64 {
    let volume = format!("{source}:/data");
    podman.background(name, &["--runtime", "runc", "--volume", &volume], COUNTS);
    let last = counts_on(|| podman.executes(name, "cat /tmp/n"), 3);
    podman.executes(name, "printf 'from outside' >/data/file");
    podman
        .podman(&["container", "checkpoint", "--export", archive, "--compress", compress, name])
        .succeeded();
    last
}

/// A host with Podman, the files of its image with the mode that their root has there, and a directory to be mounted.
fn with_image(host: &Host) -> (Podman<'_>, String, String) {
    let (podman, image, source) = (Podman::on(host), host.path("image"), host.path("source"));
    fs::set_permissions(&image, fs::Permissions::from_mode(0o555)).expect("chmod");
    fs::create_dir(&source).expect("mkdir");
    (podman, image, source)
}

/// Restores an archive of another engine's here, and sees that all is there.
fn goes_on_here(host: &Host, id: &str, archive: &str, more: &[&str], last: u64) {
    host.migrate_detached(&[&["restore", "-d", "--import", archive], more, &[id]].concat());
    let container = host.imported(id);
    let in_root = |path: &str| format!("{}{path}", container.rootfs());
    counts_on(|| fs::read_to_string(in_root("/tmp/n")).unwrap_or_default(), last + 2);
    assert!(!fs::exists(in_root("/etc/group")).expect("look"), "it was removed");
    let says = |path| host.migrate(&["exec", id, "cat", path]).succeeded();
    assert_eq!((says("/dev/shm/f").as_str(), says("/data/file").as_str()), ("kept\n", "from outside"));
    host.migrate(&["delete", "--force", id]).succeeded();
}

#[test]
fn from_podman_in_every_compression() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let (podman, image, source) = with_image(&host);
    let mapping = format!("/data={source}");
    for compress in ["none", "gzip", "zstd"] {
        let (archive, id) = (stage.path(&format!("{compress}.tar")), stage.id(compress));
        let last = checkpointed_by_podman(&podman, compress, &source, &archive, compress);
        goes_on_here(&host, &id, &archive, &["--base-rootfs", &image, "--map-mount", &mapping], last);
    }
    let (archive, id) = (stage.path("zstd.tar"), stage.id("refused"));
    let restore = ["restore", "-d", "--import", &archive, &id];
    let said = host.migrate(&restore).failed(1, &["differs from its image's"]);
    assert!(said.contains("--base-rootfs"), "{said}");
    let restore = [&restore[..], &["--base-rootfs", &image]].concat();
    let said = host.migrate(&restore).failed(1, &[&format!("/data (there it was {source})")]);
    assert!(said.contains("--map-mount"), "{said}");
    podman.end();
}

/// A volume's content is in the archive: it is here, or where the caller says.
#[test]
fn from_podman_with_a_volume() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let (podman, image, source) = with_image(&host);
    let archive = stage.path("volume.tar");
    let last = checkpointed_by_podman(&podman, "c", "web-data", &archive, "zstd");
    let base = ["--base-rootfs", &image];
    goes_on_here(&host, &stage.id("inside"), &archive, &base, last);
    assert_eq!(fs::read_dir(&source).expect("list").count(), 0);
    let mapping = format!("/data={source}");
    let mapped = [&base[..], &["--map-mount", &mapping]].concat();
    goes_on_here(&host, &stage.id("mapped"), &archive, &mapped, last);
    assert_eq!(fs::read_to_string(format!("{source}/file")).expect("read"), "from outside");
    let refused = stage.id("refused");
    let restore = [&["restore", "-d", "--import", &archive], &mapped[..], &[&refused]].concat();
    let said = host.migrate(&restore).failed(1, &[&format!("{source} has files already")]);
    assert!(said.contains("--overwrite-volumes"), "{said}");
    podman.end();
}

/// The archives of CRI-O and containerd, made of one of Podman's: other members, and containerd has a layer for what
/// differs.
#[test]
fn from_crio_and_containerd() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Runc, Need::Criu]) else { return };
    let host = stage.host("a");
    let (podman, image, source) = with_image(&host);
    let (archive, crio, containerd) =
        (stage.path("p.tar"), stage.path("crio.tar"), stage.path("containerd.tar"));
    let last = checkpointed_by_podman(&podman, "c", &source, &archive, "none");
    let script = format!(
        "set -e; mkdir p shm layer; tar -xf {archive} -C p; tar -xf p/devshm-checkpoint.tar -C shm; cd p
         echo '[]' >bind.mounts; echo '{{}}' >status.dump; touch dump.log status container.log io.kubernetes.cri-o.LogPath
         tar -cf {crio} stats-dump dump.log checkpoint config.dump spec.dump bind.mounts rootfs-diff.tar deleted.files \
             io.kubernetes.cri-o.LogPath
         tar -xf rootfs-diff.tar -C ../layer; mkdir -p ../layer/etc; touch ../layer/etc/.wh.group; chmod 555 ../layer
         tar -czf rootfs-diff.tar -C ../layer .
         tar -cf {containerd} checkpoint config.dump spec.dump status.dump status container.log dump.log stats-dump \
             rootfs-diff.tar"
    );
    host.command(&["sh", "-c", &format!("cd {} && {script}", host.path("."))]).run().succeeded();
    let mapped = [format!("/data={source}"), format!("/dev/shm={}", host.path("shm"))];
    let options = ["--base-rootfs", &image, "--map-mount", &mapped[0], "--map-mount", &mapped[1]];
    goes_on_here(&host, &stage.id("crio"), &crio, &options, last);
    goes_on_here(&host, &stage.id("containerd"), &containerd, &options, last);
    podman.end();
}

/// An archive of ours in the eyes of the tool that shows everybody's.
#[test]
fn checkpointctl_shows_it() {
    let Some(stage) = Stage::set(&[Need::Checkpointctl, Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("shown"));
    let archive = stage.path("shown.tar.zst");
    container.checkpoint(&[
        "--export",
        &archive,
        "--rootfs-image",
        "localhost/shown:1",
        "--target-runtime",
        "runc",
    ]);
    let shown = |args: &[&str]| host.command(&[&[checkpointctl().as_str()], args].concat()).run().succeeded();
    let table = shown(&["show", &archive]);
    for text in [&stage.id("shown"), "localhost/shown:1", "runc", "Podman"] {
        assert!(table.contains(text), "{text}: {table}");
    }
    let tree = shown(&["inspect", &archive, "--all"]);
    for text in
        ["io.container.manager: libpod", "CRIU dump statistics", "/state/counter.log", "Destination: /proc"]
    {
        assert!(tree.contains(text), "{text}: {tree}");
    }
    let memory = shown(&["memparse", &archive]);
    assert!(memory.contains("workload"), "{memory}");
    bundle.remove();
    host.assert_no_trace();
}
