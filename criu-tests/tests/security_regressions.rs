// SPDX-License-Identifier: Apache-2.0
//! Ways out of a container that other runtimes once left open, each tried on real containers and named after its entry
//! in the CVE list.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criu_tests::{Bundle, Host, Inspection, Stage, migrate};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

/// How often a race is run: enough to hit each side of it, few enough for every day.
const ROUNDS: usize = 25;

macro_rules! stage_and_host {
    ($stage:ident, $host:ident) => {
        let Some($stage) = Stage::set(&[]) else { return };
        let $host = $stage.host("a");
    };
}

fn inspect(host: &Host, probes: &[&str], edit: impl FnOnce(&mut Value)) -> Bundle {
    Bundle::new(host, "inspect", &[&["inspect"], probes].concat()).edit(edit)
}

fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("a list").push(mount);
}

fn bind(source: &str, destination: &str) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind"] })
}

/// In the place of the container's own `/dev` a directory of the host's, as containers share one in a volume.
fn share_dev(config: &mut Value, directory: &str) {
    for mount in config["mounts"].as_array_mut().expect("a list") {
        if mount["destination"] == json!("/dev") {
            *mount = bind(directory, "/dev");
        }
    }
}

/// A directory with the nodes that programs need, and mount points.
fn shared_dev(host: &Host) -> String {
    let dev = host.path("shared-dev");
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir_all(format!("{dev}/{name}")).expect("mkdir");
    }
    for (name, minor) in [("null", 3), ("zero", 5), ("urandom", 9)] {
        let path = format!("{dev}/{name}");
        mknod(Path::new(&path), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor))
            .expect("mknod");
    }
    dev
}

/// Exchanges two names as fast as it can, while `work` goes on.
fn while_exchanged<T>(one: &str, other: &str, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("exchange");
            }
        });
        // A failed assertion must not leave the other thread running.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What masks a file must be the null device, not what somebody has put in its place.
#[test]
fn cve_2025_31133_a_masked_path_when_dev_null_is_swapped() {
    stage_and_host!(stage, host);
    let dev = shared_dev(&host);
    let trap = host.path("trap");
    fs::write(&trap, "of the host").expect("write");
    symlink(&trap, format!("{dev}/link")).expect("symlink");
    let probes = ["--read", "/proc/keys", "--stat", "/proc/keys", "--write", "/proc/keys"];
    let bundle = inspect(&host, &probes, |config| share_dev(config, &dev));
    let run = || host.migrate(&["run", "-b", &bundle.path(), &stage.id("masked")]);
    let seen: Value = serde_json::from_str(&run().succeeded()).expect("JSON");
    assert_eq!(seen["stat"]["/proc/keys"]["ok"]["device"], json!([1, 3]));
    while_exchanged(&format!("{dev}/null"), &format!("{dev}/link"), || {
        for _ in 0..ROUNDS {
            let output = run();
            if output.code != 0 {
                assert!(output.stderr.contains("/dev/null"), "{}", output.stderr);
                continue;
            }
            let seen: Value = serde_json::from_str(&output.stdout).expect("JSON");
            assert_eq!(seen["stat"]["/proc/keys"]["ok"]["device"], json!([1, 3]));
            assert_eq!(seen["read"]["/proc/keys"]["ok"], json!(""));
        }
    });
    if !fs::symlink_metadata(format!("{dev}/null")).expect("stat").file_type().is_symlink() {
        renameat2(
            AT_FDCWD,
            format!("{dev}/null").as_str(),
            AT_FDCWD,
            format!("{dev}/link").as_str(),
            RenameFlags::RENAME_EXCHANGE,
        )
        .expect("exchange");
    }
    run().failed(1, &["/dev/null"]);
    assert_eq!(fs::read_to_string(&trap).expect("read"), "of the host");
    host.assert_no_trace();
}

/// The terminal that is bound on `/dev/console` is the one that was made, whatever its name leads to by then, and it
/// goes on no link.
#[test]
fn cve_2025_52565_a_terminal_or_console_that_is_swapped() {
    stage_and_host!(stage, host);
    let (dev, socket) = (shared_dev(&host), host.path("console"));
    let listener = UnixListener::bind(&socket).expect("bind the console socket");
    let victim = host.path("victim");
    fs::write(&victim, "untouched").expect("write");
    let bundle = Bundle::of_shell(&host, "shell").edit(|config| share_dev(config, &dev));
    let create =
        || host.migrate(&["create", "--console-socket", &socket, "-b", &bundle.path(), &stage.id("console")]);
    symlink(&victim, format!("{dev}/console")).expect("symlink");
    create().failed(1, &["/dev/console", "symbolic link"]);
    // Nobody need take the terminals: they wait in the socket's queue.
    fs::write(format!("{dev}/other"), "").expect("write");
    let before = host.mountinfo();
    while_exchanged(&format!("{dev}/console"), &format!("{dev}/other"), || {
        for _ in 0..ROUNDS {
            let output = create();
            if output.code == 0 {
                host.migrate(&["delete", "--force", &stage.id("console")]).succeeded();
            } else {
                assert!(output.stderr.contains("/dev/console"), "{}", output.stderr);
            }
            assert_eq!(host.mountinfo(), before, "the terminal is on a file of the host");
        }
    });
    for name in ["console", "other"] {
        fs::remove_file(format!("{dev}/{name}")).expect("unlink");
    }
    // A multiplexer of another kind than a devpts' own would hand out terminals of the host.
    let bundle = bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| m["destination"] != json!("/dev/pts"));
    });
    let fake = format!("{dev}/pts/ptmx");
    mknod(Path::new(&fake), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(5, 2)).expect("mknod");
    let create =
        || host.migrate(&["create", "--console-socket", &socket, "-b", &bundle.path(), &stage.id("console")]);
    create().failed(1, &["/dev/pts/ptmx", "no multiplexer of a devpts"]);
    fs::remove_file(&fake).expect("unlink");
    symlink("/proc/self/fd/0", &fake).expect("symlink");
    create().failed(1, &["/dev/pts/ptmx"]);
    assert_eq!(fs::read_to_string(&victim).expect("read"), "untouched");
    assert!(!fs::metadata(&victim).expect("stat").file_type().is_char_device());
    drop(listener);
    host.assert_no_trace();
}

/// A value for one kernel parameter must not reach another file by way of a mount on it.
#[test]
fn cve_2025_52881_a_write_to_proc_that_is_diverted() {
    stage_and_host!(stage, host);
    let (trap, parameter) = (host.path("trap"), "/proc/sys/net/ipv4/ip_forward");
    fs::write(&trap, "untouched").expect("write");
    host.command(&["mount", "--bind", &trap, parameter]).run().succeeded();
    let seen = Inspection::of(&stage, &host, &["--read", parameter], |config| {
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    });
    assert_eq!(seen["read"][parameter]["ok"], json!("1\n"), "the parameter itself is set");
    assert_eq!(fs::read_to_string(&trap).expect("read"), "untouched");
}

/// No descriptor of the runtime's is a way to a working directory of the host's.
#[test]
fn cve_2024_21626_a_working_directory_in_a_leaked_descriptor() {
    stage_and_host!(stage, host);
    for number in 3..12 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../..")] {
            let bundle = inspect(&host, &[], |config| config["process"]["cwd"] = json!(cwd));
            let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("cwd")]);
            if output.code == 0 {
                let seen: Value = serde_json::from_str(&output.stdout).expect("JSON");
                let inside = seen["cwd"].as_str().expect("a path");
                assert!(inside.starts_with("/proc") || inside == "/", "{cwd} leads to {inside}");
            } else {
                assert!(output.stderr.contains("cwd"), "{cwd}: {}", output.stderr);
            }
            bundle.remove();
        }
    }
    let (_bundle, container) = host.run_small(&stage.id("exec"));
    for number in 3..12 {
        let cwd = format!("/proc/self/fd/{number}");
        let output = host.migrate(&["exec", "--cwd", &cwd, container.id(), "/workload", "inspect"]);
        assert_ne!(output.code, 0, "{cwd}: {}", output.stdout);
    }
    container.end();
    host.assert_no_trace();
}

/// A `/proc` or `/sys` that is a link would make what is written to it, or masked in it, go astray.
#[test]
fn cve_2019_16884_and_cve_2023_27561_proc_as_a_link() {
    stage_and_host!(stage, host);
    for (name, filesystem) in [("proc", "proc"), ("sys", "sysfs")] {
        for target in ["/elsewhere", "../../../../etc", "."] {
            let bundle = inspect(&host, &[], |_| {});
            let place = format!("{}/{name}", bundle.rootfs());
            fs::create_dir(format!("{}/elsewhere", bundle.rootfs())).expect("mkdir");
            fs::remove_dir(&place).expect("rmdir");
            symlink(target, &place).expect("symlink");
            let words = format!("filesystem {filesystem:?} must be mounted on ordinary directory");
            host.migrate(&["run", "-b", &bundle.path(), &stage.id("link")]).failed(1, &[&words]);
            bundle.remove();
        }
    }
    // By way of a volume whose own /proc is no procfs.
    let volume = host.path("volume");
    fs::create_dir_all(format!("{volume}/self/attr")).expect("mkdir");
    let bundle = inspect(&host, &[], |config| {
        config["mounts"][0] = bind(&volume, "/proc");
    });
    host.migrate(&["run", "-b", &bundle.path(), &stage.id("volume")]).failed(1, &["not of type proc"]);
    host.assert_no_trace();
}

/// A mount's destination in a volume that another container changes all the time.
#[test]
fn cve_2021_30465_a_destination_that_is_exchanged_for_a_link() {
    stage_and_host!(stage, host);
    let (volume, source, outside) = (host.path("volume"), host.path("source"), host.path("outside"));
    for path in [format!("{volume}/place"), source.clone(), outside.clone()] {
        fs::create_dir_all(path).expect("mkdir");
    }
    fs::write(format!("{source}/file"), "").expect("write");
    let up = "../".repeat(20);
    symlink(format!("{up}{outside}"), format!("{volume}/link")).expect("symlink");
    let bundle = inspect(&host, &[], |config| {
        add(config, bind(&volume, "/volume"));
        add(config, bind(&source, "/volume/place/bound"));
        add(config, json!({ "destination": "/volume/place/made", "type": "tmpfs", "source": "t" }));
    });
    let before = host.mountinfo();
    while_exchanged(&format!("{volume}/place"), &format!("{volume}/link"), || {
        for _ in 0..ROUNDS {
            // Losing the race may be an error; that it works at all is seen without it.
            let output = host.migrate(&["run", "-b", &bundle.path(), &stage.id("race")]);
            assert_eq!(host.mountinfo(), before, "a mount reached the host");
            assert_eq!(fs::read_dir(&outside).expect("list").count(), 0, "something was made outside");
            assert!(output.code <= 1, "{}", output.stderr);
        }
    });
    host.migrate(&["run", "-b", &bundle.path(), &stage.id("quiet")]).succeeded();
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    host.assert_no_trace();
}

/// The runtime's own program, which a container's process reaches through `/proc/PID/exe`.
#[test]
fn cve_2019_5736_the_runtimes_program_cannot_be_overwritten() {
    stage_and_host!(stage, host);
    let program = fs::read(migrate()).expect("read the program");
    // Another container's init, still the runtime's program, in sight of a process with every right that could help.
    let waiting = Bundle::new(&host, "waiting", &["inspect"]);
    let id = stage.id("waiting");
    host.migrate_detached(&["create", "-b", &waiting.path(), &id]);
    let pid = host.state(&id)["pid"].as_i64().expect("a pid");
    let bundle = inspect(&host, &["--write", "/proc/1/exe", "--write", "/proc/self/exe"], |config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
            if namespace["type"] == json!("pid") {
                namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
            }
        }
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] =
                json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_FOWNER"]);
        }
    });
    let text = host.migrate(&["run", "-b", &bundle.path(), &stage.id("attacker")]).succeeded();
    let seen: Value = serde_json::from_str(&text).expect("JSON");
    let refused = &seen["write"]["/proc/1/exe"]["errno"];
    let refusals = [libc::EACCES, libc::EPERM, libc::EROFS, libc::ETXTBSY];
    assert!(refusals.iter().any(|errno| *refused == json!(errno)), "{seen}");
    host.migrate(&["delete", "--force", &id]).succeeded();
    // The classic way in: a script whose interpreter is whoever executes it.
    let script = Bundle::new(&host, "script", &["inspect"]).edit(|config| {
        config["process"]["args"] = json!(["/script"]);
    });
    let path = format!("{}/script", script.rootfs());
    fs::write(&path, "#!/proc/self/exe\n").expect("write");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    assert_ne!(host.migrate(&["run", "-b", &script.path(), &stage.id("script")]).code, 0);
    assert_eq!(fs::read(migrate()).expect("read the program"), program, "the program was changed");
    host.assert_no_trace();
}
