// SPDX-License-Identifier: Apache-2.0
//! Podman with the binary under test as its runtime: networks, pods, restarts, health checks.

use std::os::unix::net::UnixDatagram;

use criu_tests::{Bundle, Host, Need, PATIENCE, Podman, Stage, wait_until};

/// Serves one page on port 80.
const SERVES: &str = "echo page > /tmp/index.html; exec httpd -f -p 80 -h /tmp";

/// Asks for a page, in a shell that needs no other program for it.
const ASKS: &str = r#"exec 3<>"/dev/tcp/$1/$2" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3"#;

/// Waits until a page comes.
#[track_caller]
fn serves(host: &Host, address: &str, port: u16) {
    wait_until(PATIENCE, &format!("{address} serves at {port}"), || {
        let output = host.command(&["bash", "-c", ASKS, "bash", address, &port.to_string()]).run();
        if output.stdout.ends_with("\npage\n") { Ok(()) } else { Err(output) }
    });
}

#[test]
fn no_network() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    assert_eq!(
        podman.says(&[], "ls /sys/class/net; cat /sys/class/net/lo/operstate; ip -4 -o a | wc -l"),
        "lo\nunknown\n1"
    );
    let seen = podman.says(&[], "httpd -h /etc; wget -q -O - http://127.0.0.1/passwd");
    assert!(seen.starts_with("root:"), "{seen}");
    podman.end();
}

#[test]
fn a_bridge_with_a_published_port() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.background("web", &["--network=podman", "-p", "8080:80"], SERVES);
    serves(&host, "127.0.0.1", 8080);
    let address = podman.inspect("web", "{{.NetworkSettings.IPAddress}}");
    serves(&host, &address, 80);
    // From its neighbour.
    let seen =
        podman.says(&["--network=podman"], &format!("wget -q -O - http://{address}/; ls /sys/class/net"));
    assert_eq!(seen, "page\neth0\nlo");
    podman.podman(&["rm", "-f", "-t", "0", "web"]).succeeded();
    let rules = host.command(&["iptables-save"]).run().succeeded();
    assert!(!rules.contains("8080"), "{rules}");
    podman.end();
}

#[test]
fn a_pod() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.pod("pod", &["--hostname=together", "-p", "8081:80"]);
    let podded = |options: &[&str], script: &str| {
        let argv = [&["run", "--pod=pod"], options, &[Podman::IMAGE, "sh", "-c", script]].concat();
        podman.podman(&argv).succeeded()
    };
    podded(&["-d", "--name=web"], SERVES);
    serves(&host, "127.0.0.1", 8081);
    let asks = "hostname; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";
    let one = podman.executes("web", asks);
    let other = podded(&["--rm"], &format!("{asks}; wget -q -O - http://127.0.0.1/"));
    let (one, other): (Vec<&str>, Vec<&str>) = (one.lines().collect(), other.lines().collect());
    assert_eq!(one[0], "together");
    assert_eq!(one[..4], other[..4], "host name, network, ipc and uts");
    assert_ne!(one[4], other[4], "each has its own processes");
    assert_eq!(other[5], "page");
    podman.podman(&["pod", "pause", "pod"]).succeeded();
    assert_eq!(podman.inspect("web", "{{.State.Status}}"), "paused");
    podman.podman(&["pod", "unpause", "pod"]).succeeded();
    podman.podman(&["pod", "stop", "-t", "0", "pod"]).succeeded();
    assert_eq!(podman.inspect("web", "{{.State.Status}}"), "exited");
    podman.podman(&["pod", "start", "pod"]).succeeded();
    serves(&host, "127.0.0.1", 8081);
    podman.end();
}

#[test]
fn restart_policies() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    podman.background("fails", &["--restart=on-failure:2"], "echo run; exit 3");
    podman.becomes("fails", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "2 exited 3");
    assert_eq!(podman.logs("fails", ""), "run\nrun\nrun\n");
    podman.background("always", &["--restart=always"], "echo up; exec sleep 1000");
    podman.logs("always", "up\n");
    let first = podman.inspect("always", "{{.State.Pid}}");
    host.command(&["kill", "-9", &first]).run().succeeded();
    podman.logs("always", "up\nup\n");
    podman.becomes("always", "{{.RestartCount}} {{.State.Status}}", "1 running");
    podman.podman(&["stop", "-t", "0", "always"]).succeeded();
    assert_eq!(podman.inspect("always", "{{.State.Status}}"), "exited", "what was stopped stays so");
    podman.end();
}

#[test]
fn health_checks() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    // Without an interval nobody but the test runs them: Podman leaves that to systemd's timers.
    let options = ["--health-cmd=test -f /tmp/well", "--health-retries=1", "--health-interval=disable"];
    podman.background("c", &options, "exec sleep 1000");
    assert_eq!(podman.podman(&["healthcheck", "run", "c"]).code, 1);
    assert_eq!(podman.inspect("c", "{{.State.Health.Status}}"), "unhealthy");
    podman.executes("c", "touch /tmp/well");
    assert_eq!(podman.podman(&["healthcheck", "run", "c"]).code, 0);
    assert_eq!(podman.inspect("c", "{{.State.Health.Status}}"), "healthy");
    podman.end();
}

#[test]
fn readiness_for_a_service_manager() {
    let Some(stage) = Stage::set(&[Need::Podman]) else { return };
    let host = stage.host("a");
    let podman = Podman::on(&host);
    let address = host.path("manager");
    let manager = UnixDatagram::bind(&address).expect("bind");
    manager.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    // The socket in the container is Podman's and conmon's; the runtime has none to do with it.
    let bundle = Bundle::new(&host, "notifies", &[]);
    let (root, parent) = (bundle.rootfs(), format!("--cgroup-parent=/{}", stage.id("parent")));
    let run =
        ["podman", "run", "-d", "--name=c", "--network=none", "--sdnotify=container", &parent, "--rootfs"];
    let program = [root.as_str(), "/workload", "notify", "--when", "/"];
    let (path, manager_address) =
        (("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("NOTIFY_SOCKET", address.as_str()));
    host.command(&[&run[..], &program].concat()).environment(&[path, manager_address]).run().succeeded();
    let mut message = [0; 4096];
    let mut heard = String::new();
    // Podman tells the one, conmon the other.
    let main = format!("MAINPID={}", podman.inspect("c", "{{.State.ConmonPid}}"));
    while !heard.contains("READY=1") || !heard.contains(&main) {
        let length = manager.recv(&mut message).unwrap_or_else(|e| panic!("{e}; heard {heard:?}"));
        heard.push_str(&String::from_utf8_lossy(&message[..length]));
    }
    podman.end();
}
