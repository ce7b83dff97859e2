// SPDX-License-Identifier: Apache-2.0
//! Registries that answer what they should not: each answer ends in an error that says what it is, soon, and leaves no file.

use super::*;

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
}

/// Pulls from a registry that gives these answers; the error.
fn pulled(answers: Vec<(&'static str, Vec<u8>)>) -> Error {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(Faults { answers, ..Faults::default() });
    let target = directory.path().join("target");
    let error = pull(&server.reference("web:1"), Some(&target), &options(directory.path()), &mut ()).err();
    assert!(!target.exists());
    error.expect("it cannot be pulled")
}

#[test]
fn wrong_answers_are_told_apart() {
    let loops = "307 x\r\nContent-Length: 0\r\nLocation: /v2/web/manifests/1";
    let layers = |size: &str| {
        let digest = Digest::of(b"");
        format!(
            r#"{{"schemaVersion":2,"layers":[{{"mediaType":"{}","digest":"{digest}","size":{size}}}]}}"#,
            manifest::OPAQUE
        )
    };
    let chunked = "200 OK\r\nTransfer-Encoding: chunked";
    for (what, start, bytes, expected) in [
        ("no HTTP", "GET /v2/ ", b"SSH-2.0-x\r\n\r\n".to_vec(), "not an answer of HTTP"),
        ("nothing", "GET /v2/ ", Vec::new(), "ended before the answer"),
        ("half a head", "GET /v2/ ", b"HTTP/1.1 200 OK\r\nA: b".to_vec(), "ended before the answer"),
        (
            "an endless head",
            "GET /v2/ ",
            answer(&format!("200 OK\r\nA: {}", "b".repeat(1 << 20)), b""),
            "the head of the answer is too large",
        ),
        ("an endless line", "GET /v2/ ", vec![b'x'; 1 << 20], "the head of the answer is too large"),
        (
            "many headers",
            "GET /v2/ ",
            answer(&format!("200 OK{}", "\r\nA: b".repeat(1000)), b""),
            "not an answer of HTTP",
        ),
        ("no registry", "GET /v2/ ", answer("404 x\r\nContent-Length: 0", b""), "it is not a registry"),
        (
            "two lengths",
            "GET /v2/ ",
            answer("200 OK\r\nContent-Length: 1\r\nContent-Length: 2", b"ab"),
            "does not say how long",
        ),
        (
            "https wanted",
            "GET /v2/ ",
            answer("400 x\r\nContent-Length: 55", b"Client sent an HTTP request to an HTTPS server.        "),
            "HTTP request to an HTTPS server",
        ),
        (
            "refused for ever",
            "GET /v2/ ",
            answer("401 x\r\nWWW-Authenticate: Basic\r\nContent-Length: 0", b""),
            "it wants a user and a password",
        ),
        (
            "an unknown challenge",
            "GET /v2/ ",
            answer("401 x\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0", b""),
            "does not say how to log in",
        ),
        ("forbidden", "GET /v2/web/m", answer("403 x\r\nContent-Length: 0", b""), "answers 403"),
        ("a redirect to itself", "GET /v2/web/m", answer(loops, b""), "redirects more than 10 times"),
        (
            "a redirect to a file",
            "GET /v2/web/m",
            answer("302 x\r\nContent-Length: 0\r\nLocation: file:///etc/passwd", b""),
            "not an address of http",
        ),
        (
            "a large manifest",
            "GET /v2/web/m",
            answer("200 OK\r\nContent-Length: 5000000", &vec![b' '; 5_000_000]),
            "larger than 4194304 bytes",
        ),
        (
            "a manifest without an end",
            "GET /v2/web/m",
            answer("200 OK", &vec![b' '; 5_000_000]),
            "larger than 4194304 bytes",
        ),
        (
            "half a manifest",
            "GET /v2/web/m",
            answer("200 OK\r\nContent-Length: 99", b"{"),
            "in the middle of an answer",
        ),
        ("half a chunk", "GET /v2/web/m", answer(chunked, b"5\r\n{"), "in the middle of an answer"),
        ("a chunk of no size", "GET /v2/web/m", answer(chunked, b"-5\r\n{}"), "a chunk has no size"),
        (
            "a chunk without an end",
            "GET /v2/web/m",
            answer(chunked, b"2\r\n{}xx\r\n0\r\n\r\n"),
            "a chunk does not end",
        ),
        (
            "a chunk too large to be",
            "GET /v2/web/m",
            answer(chunked, b"fffffffffffffffff\r\n{}"),
            "a chunk has no size",
        ),
        ("no JSON", "GET /v2/web/m", answer("200 OK\r\nContent-Length: 1", b"{"), "understand the manifest"),
        (
            "a size below zero",
            "GET /v2/web/m",
            answer("200 OK", layers("-1").as_bytes()),
            "understand the manifest",
        ),
        ("no such blob", "GET /v2/web/m", answer("200 OK", layers("7").as_bytes()), "answers 404"),
    ] {
        let error = pulled(vec![(start, bytes)]);
        assert!(error.chain().contains(expected), "{what}: {}", error.chain());
        assert!(error.chain().contains("127.0.0.1"), "{what}: {}", error.chain());
    }
}

#[test]
fn an_answer_before_the_end_of_the_chunks_is_an_answer() {
    let body = b"3;x=y\r\n{ }\r\n0\r\nTrailer: x\r\n\r\n";
    let error = pulled(vec![("GET /v2/web/m", answer("200 OK\r\nTransfer-Encoding: Chunked", body))]);
    assert!(error.chain().contains("missing field `schemaVersion`"), "{}", error.chain());
}

/// Pulls a blob of which the manifest tells seven bytes.
fn pulled_blob(bytes: Vec<u8>) -> (Error, Vec<String>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(Faults { answers: vec![("GET /v2/web/blobs", bytes)], ..Faults::default() });
    let layer = Descriptor::of(manifest::OPAQUE, b"content");
    let json = serde_json::json!({ "schemaVersion": 2, "layers": [layer] });
    server.store_manifest("1", json.to_string().as_bytes());
    let target = directory.path().join("target");
    let error = pull(&server.reference("web:1"), Some(&target), &options(directory.path()), &mut ()).err();
    assert!(!target.exists());
    (error.expect("it cannot be pulled"), left_over(directory.path()))
}

#[test]
fn blobs_that_are_not_what_was_named_are_thrown_away() {
    for (bytes, expected) in [
        (answer("200 OK\r\nContent-Length: 7", b"CONTENT"), "what came is not what the manifest names"),
        (answer("200 OK\r\nContent-Length: 1000000", &vec![b'x'; 1_000_000]), "larger than the 7 bytes"),
        (answer("200 OK", &vec![b'x'; 1_000_000]), "larger than the 7 bytes"),
    ] {
        let (error, left) = pulled_blob(bytes);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        assert!(error.chain().contains(expected), "{}", error.chain());
        assert_eq!(left, [""; 0]);
    }
}

#[test]
fn blobs_that_do_not_come_are_given_up() {
    for (bytes, expected) in [
        (answer("200 OK\r\nContent-Length: 0", b""), "0 of 7 bytes are here"),
        (answer("200 OK\r\nContent-Length: 7", b""), "0 of 7 bytes are here"),
        (
            answer("206 x\r\nContent-Length: 3\r\nContent-Range: bytes 4-6/7", b"ent"),
            "another part than was asked for",
        ),
        (answer("503 x\r\nContent-Length: 0", b""), "answers 503"),
    ] {
        let (error, _) = pulled_blob(bytes);
        assert!(error.chain().contains(expected), "{}", error.chain());
    }
}

#[test]
fn a_download_is_not_resumed_from_what_does_not_belong_to_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, bytes) = checkpoint(directory.path());
    let server = Server::start(Faults::default());
    let reference = server.reference("web:1");
    push(&path, &reference, &options(directory.path()), &mut ()).expect("pushed");
    let digest = Digest::of(&bytes);
    let partial = directory.path().join(format!(".again.{}.partial", &digest.hex()[..16]));
    fs::write(&partial, b"something else").expect("write");
    let target = directory.path().join("again");
    let error = pull(&reference, Some(&target), &options(directory.path()), &mut ()).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    assert!(!partial.exists() && !target.exists());
    // Longer than the whole: it is begun again at once.
    fs::write(&partial, vec![0; bytes.len() + 1]).expect("write");
    pull(&reference, Some(&target), &options(directory.path()), &mut ()).expect("pulled");
    assert_eq!(fs::read(&target).expect("read"), bytes);
    // Not a file.
    std::os::unix::fs::symlink("/etc/passwd", &partial).expect("symlink");
    let error = pull(&reference, Some(&target), &options(directory.path()), &mut ()).expect_err("a link");
    assert!(error.is_errno(libc::ELOOP), "{}", error.chain());
}

#[test]
fn uploads_that_do_not_advance_are_given_up() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, _) = checkpoint(directory.path());
    let place = "Content-Length: 0\r\nLocation: /upload/1";
    for (start, bytes, expected) in [
        ("POST", answer("202 x\r\nContent-Length: 0", b""), "does not say where to upload to"),
        (
            "POST",
            answer("202 x\r\nContent-Length: 0\r\nLocation: gopher://x/", b""),
            "not an address of http",
        ),
        ("POST", answer("403 x\r\nContent-Length: 0", b""), "answers 403"),
        ("PATCH", answer(&format!("202 x\r\n{place}\r\nRange: 0-0"), b""), "has none of it"),
        (
            "PATCH",
            answer(&format!("202 x\r\n{place}\r\nRange: 0-99999999"), b""),
            "says that it has 100000000 bytes",
        ),
        ("PATCH", answer("413 x\r\nContent-Length: 0", b""), "answers 413"),
        ("PUT /upload", answer("400 x\r\nContent-Length: 0", b""), "answers 400"),
        ("PUT /v2/web/m", answer("400 x\r\nContent-Length: 0", b""), "answers 400"),
    ] {
        let server = Server::start(Faults { answers: vec![(start, bytes)], ..Faults::default() });
        let error =
            push(&path, &server.reference("web:1"), &options(directory.path()), &mut ()).expect_err(start);
        assert!(error.chain().contains(expected), "{start}: {}", error.chain());
        assert!(error.chain().contains("127.0.0.1"), "{start}: {}", error.chain());
    }
}

#[test]
fn nobody_there_and_no_encryption_are_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(Faults::default());
    let verifying = RegistryOptions { tls_verify: true, ..options(directory.path()) };
    let error = fetch(&server.reference("web:1"), &verifying, &mut ()).expect_err("no TLS");
    assert!(error.hint().is_some_and(|hint| hint.contains("--tls-verify=false")), "{error:?}");
    // A port that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let nobody: Reference = format!("{port}/web:1").parse().expect("a name");
    let error = fetch(&nobody, &options(directory.path()), &mut ()).expect_err("nobody");
    assert!(error.is_errno(libc::ECONNREFUSED), "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("nothing listens on port")), "{error:?}");
}
