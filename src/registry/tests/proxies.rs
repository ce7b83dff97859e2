// SPDX-License-Identifier: Apache-2.0
//! Push and pull through a proxy in this process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// A proxy to one server, whatever it is asked for; keeps the heads of what passes it first on each connection.
fn proxy_to(server: SocketAddr, refuses: bool) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(std::result::Result::ok) {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || drop(pass(client, server, &shared, refuses)));
        }
    });
    (address, seen)
}

fn pass(
    client: TcpStream,
    server: SocketAddr,
    seen: &Mutex<Vec<String>>,
    refuses: bool,
) -> std::io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut to = client;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let is_tunnel = head.starts_with("CONNECT ");
    seen.lock().expect("nobody panics with it").push(head.clone());
    if refuses {
        return to.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    }
    let mut upstream = TcpStream::connect(server)?;
    if is_tunnel {
        to.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")?;
    } else {
        upstream.write_all(head.as_bytes())?;
    }
    let mut back = upstream.try_clone()?;
    let answers = std::thread::spawn(move || std::io::copy(&mut back, &mut to));
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            length => upstream.write_all(&buffer[..length])?,
        }
    }
    upstream.shutdown(std::net::Shutdown::Write)?;
    answers.join().expect("it ends").map(drop)
}

fn through(directory: &Path, proxy: SocketAddr) -> RegistryOptions {
    let named = |name: &str| match name {
        "HTTPS_PROXY" | "HTTP_PROXY" => Some(format!("http://user:secret@{proxy}")),
        "NO_PROXY" => Some("inside.test".to_owned()),
        _ => None,
    };
    RegistryOptions { proxies: Proxies::named(named).expect("proxies"), ..options(directory) }
}

#[test]
fn a_registry_is_reached_through_a_proxy() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    let server = Server::start(Faults::default());
    let (proxy, seen) = proxy_to(server.address(), false);
    let options = through(directory.path(), proxy);
    // A name that only the proxy knows.
    let reference: Reference = "registry.test:5000/team/web:1".parse().expect("a name");
    push(&path, &reference, &options, &mut ()).expect("push");
    let pulled = directory.path().join("pulled");
    pull(&reference, Some(&pulled), &options, &mut ()).expect("pull");
    assert!(fs::read(&pulled).expect("read") == bytes);
    let seen = seen.lock().expect("nobody panics with it").clone();
    // With encryption first, by a tunnel, then as that is not spoken, without.
    assert!(seen[0].starts_with("CONNECT registry.test:5000 HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen.iter().any(|head| head.starts_with("GET http://registry.test:5000/v2/")), "{seen:?}");
    assert!(
        seen.iter().all(|head| head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n")),
        "{seen:?}"
    );
    assert!(!server.authorizations().iter().any(|text| text.contains("dXNlcjpzZWNyZXQ=")));
}

#[test]
fn a_proxy_that_refuses_is_named_without_its_password() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (proxy, seen) = proxy_to("127.0.0.1:1".parse().expect("an address"), true);
    let options = RegistryOptions { tls_verify: true, ..through(directory.path(), proxy) };
    let reference: Reference = "registry.test:5000/web:1".parse().expect("a name");
    let error = pull(&reference, None, &options, &mut ()).expect_err("it refuses");
    assert_eq!(error.kind(), ErrorKind::Registry);
    let said = format!("{} {}", error.chain(), error.hint().unwrap_or_default());
    for part in ["registry.test", &proxy.to_string(), "407", "HTTPS_PROXY", "NO_PROXY"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("secret"), "{said}");
    let asked = seen.lock().expect("nobody panics with it").len();
    // Nothing goes there that is not for it.
    let direct: Reference = "inside.test:5000/web:1".parse().expect("a name");
    pull(&direct, None, &options, &mut ()).expect_err("nobody knows this name");
    assert_eq!(seen.lock().expect("nobody panics with it").len(), asked);
}
