// SPDX-License-Identifier: Apache-2.0
//! A registry in memory, on a port of its own: it keeps what it gets, notes what it was asked, and does wrong what it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::{Digest, Reference};

/// What it wants to know before it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wants {
    #[default]
    Nothing,
    Basic,
    Bearer,
}

/// What it does wrong.
#[derive(Debug, Default, Clone)]
pub(super) struct Faults {
    pub(super) wants: Wants,
    /// Connections of uploads that end after so many bytes, one after the other.
    pub(super) cut_uploads: Vec<usize>,
    /// The same of downloads.
    pub(super) cut_downloads: Vec<usize>,
    /// Where blobs are redirected to.
    pub(super) blobs_at: Option<SocketAddr>,
    /// What is answered to a request that begins so, instead of anything.
    pub(super) answers: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    seen: Vec<String>,
    authorizations: Vec<String>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    upload: Vec<u8>,
    uploads: VecDeque<usize>,
    downloads: VecDeque<usize>,
}

/// It ends with the value.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct Asked {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

impl Server {
    pub(super) fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (uploads, downloads) = (faults.cut_uploads.clone().into(), faults.cut_downloads.clone().into());
        let state = Arc::new(Mutex::new(State { faults, uploads, downloads, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                // A client that went away is no failure of the test's.
                std::thread::spawn(move || drop(serve(stream, address, &shared)));
            }
        });
        Self { address, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().expect("a name")
    }

    /// What it was asked, in short.
    pub(super) fn seen(&self) -> Vec<String> {
        self.state().seen.clone()
    }

    /// Each `Authorization` that it got.
    pub(super) fn authorizations(&self) -> Vec<String> {
        self.state().authorizations.clone()
    }

    pub(super) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(digest).cloned()
    }

    pub(super) fn store(&self, bytes: &[u8]) {
        self.state().blobs.insert(Digest::of(bytes).to_string(), bytes.to_vec());
    }

    pub(super) fn store_manifest(&self, tag: &str, bytes: &[u8]) {
        self.state().manifests.insert(tag.to_owned(), bytes.to_vec());
    }

    /// From now on it does nothing wrong.
    pub(super) fn behave(&self) {
        let mut state = self.state();
        state.faults = Faults::default();
        state.uploads.clear();
        state.downloads.clear();
    }
}

fn serve(stream: TcpStream, address: SocketAddr, state: &Mutex<State>) -> std::io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let mut to = stream;
    // The beginning of a TLS handshake: what it wants is not spoken here.
    if from.fill_buf()?.first() == Some(&22) {
        return to.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    loop {
        let Some(asked) = read_head(&mut from)? else { return Ok(()) };
        if !answer(&asked, &mut from, &mut to, address, state)? {
            return Ok(());
        }
    }
}

fn read_head(from: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Some(Asked { method, path, headers }))
}

fn respond(to: &mut impl Write, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    to.write_all(&[head.as_bytes(), body].concat())
}

/// Answers; `false` when the connection is to end.
fn answer(
    asked: &Asked,
    from: &mut impl Read,
    to: &mut impl Write,
    address: SocketAddr,
    state: &Mutex<State>,
) -> std::io::Result<bool> {
    let length: usize = asked.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut state = state.lock().expect("nobody panics with it");
    let state = &mut *state;
    let line = format!("{} {}", asked.method, asked.path);
    let authorization = asked.header("authorization").unwrap_or_default().to_owned();
    if !authorization.is_empty() {
        state.authorizations.push(authorization.clone());
    }
    let told = state.faults.answers.iter().find(|(start, _)| format!("{line} ").starts_with(start));
    if let Some((_, bytes)) = told {
        state.seen.push(line);
        to.write_all(bytes)?;
        return Ok(false);
    }
    if let Some(query) = asked.path.strip_prefix("/token?") {
        let scope = query.split("scope=").nth(1).unwrap_or_default().replace("%3A", ":").replace("%2C", ",");
        let token = format!("{{\"token\":\"token-for-{scope}\"}}");
        return respond(to, "200", "", token.as_bytes()).map(|()| true);
    }
    let welcome = match state.faults.wants {
        Wants::Nothing => true,
        Wants::Basic => authorization == "Basic dXNlcjpzZWNyZXQ=",
        Wants::Bearer => authorization.starts_with("Bearer token-for-repository:web:pull"),
    };
    if !welcome {
        let challenge = match state.faults.wants {
            Wants::Bearer => {
                format!("WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"s\"\r\n")
            }
            _ => "WWW-Authenticate: Basic realm=\"s\"\r\n".to_owned(),
        };
        std::io::copy(&mut from.take(length as u64), &mut std::io::sink())?;
        return respond(to, "401", &challenge, b"{}").map(|()| true);
    }
    let last = asked.path.rsplit('/').next().unwrap_or_default().to_owned();
    let has = format!("Location: /upload/1\r\nRange: 0-{}\r\n", state.upload.len().saturating_sub(1));
    match (asked.method.as_str(), asked.path.split('/').rev().nth(1).unwrap_or_default()) {
        ("GET", "v2") => respond(to, "200", "", b"{}")?,
        ("HEAD", "blobs") => {
            let status = if state.blobs.contains_key(&last) { "200" } else { "404" };
            to.write_all(format!("HTTP/1.1 {status} x\r\nContent-Length: 9\r\n\r\n").as_bytes())?;
        }
        ("POST", "uploads") => {
            state.seen.push("POST".to_owned());
            state.upload.clear();
            respond(to, "202", "Location: /upload/1\r\n", b"")?;
        }
        ("GET", "upload") => respond(to, "204", &has, b"")?,
        ("PATCH", "upload") => {
            state.seen.push(format!("PATCH {}", asked.header("content-range").unwrap_or_default()));
            if let Some(cut) = state.uploads.pop_front() {
                from.take(cut as u64).read_to_end(&mut state.upload)?;
                return Ok(false);
            }
            from.take(length as u64).read_to_end(&mut state.upload)?;
            let has = format!("Location: /upload/1\r\nRange: 0-{}\r\n", state.upload.len() - 1);
            respond(to, "202", &has, b"")?;
        }
        ("PUT", "upload") => {
            let digest = Digest::of(&state.upload).to_string();
            let good = asked.path.ends_with(&digest.replace(':', "%3A"));
            if good {
                state.blobs.insert(digest, std::mem::take(&mut state.upload));
            }
            respond(to, if good { "201" } else { "400" }, "", b"")?;
        }
        ("PUT", "manifests") => {
            let mut bytes = Vec::new();
            from.take(length as u64).read_to_end(&mut bytes)?;
            state.manifests.insert(Digest::of(&bytes).to_string(), bytes.clone());
            state.manifests.insert(last, bytes);
            respond(to, "201", "", b"")?;
        }
        ("GET", "manifests") => match state.manifests.get(&last) {
            Some(bytes) => respond(to, "200", "", bytes)?,
            None => respond(
                to,
                "404",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            )?,
        },
        ("GET", "blobs") => {
            let range = asked.header("range").map(str::to_owned);
            state
                .seen
                .push(format!("GET blob {}", range.as_deref().unwrap_or_default()).trim_end().to_owned());
            if let Some(other) = state.faults.blobs_at {
                respond(to, "307", &format!("Location: http://{other}{}\r\n", asked.path), b"")?;
                return Ok(true);
            }
            let Some(bytes) = state.blobs.get(&last) else {
                return respond(to, "404", "", b"").map(|()| true);
            };
            let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            let rest = &bytes[start.unwrap_or(0)..];
            let (status, header) = match start {
                Some(start) => {
                    ("206", format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len()))
                }
                None => ("200", String::new()),
            };
            if let Some(cut) = state.downloads.pop_front() {
                let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{header}\r\n", rest.len());
                to.write_all(&[head.as_bytes(), &rest[..cut.min(rest.len())]].concat())?;
                return Ok(false);
            }
            respond(to, status, &header, rest)?;
        }
        _ => respond(to, "404", "", b"")?,
    }
    Ok(true)
}
