// SPDX-License-Identifier: Apache-2.0
//! As much of HTTP/1.1 as a registry needs, blocking: one request, one answer, over TCP or TLS, through a proxy if one is named. It follows no redirects, repeats
//! nothing and knows no registry: a [`Client`] says what was answered, or why there was no answer.
//!
//! The other side is not trusted: heads are bounded, bodies are framed, and every read and write has a deadline.

mod body;
mod connection;
mod failure;
mod proxy;
mod tls;
pub(super) mod url;

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::RegistryOptions;
use crate::{Error, ErrorKind, Result};
pub(super) use body::Body;
use body::Framing;
use connection::Connection;
pub(super) use failure::is_not_tls;
pub use proxy::Proxies;
use proxy::Proxy;
use url::{Origin, Scheme, Url};

/// Largest head of an answer.
const HEAD: usize = 64 << 10;

/// How large and how slow an answer may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    headers: usize,
    patience: Duration,
}

impl Limits {
    /// How long an answer may take that fits into memory.
    fn small_answer(&self) -> Duration {
        self.patience * 4
    }
}

/// What is sent with a request.
pub(super) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// So many bytes from there. More are not read.
    Stream(&'a mut dyn Read, u64),
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) url: &'a Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
    /// How many times longer than usual the answer may take.
    pub(super) patience: u32,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: &'static str, url: &'a Url) -> Self {
        Self { method, url, headers: Vec::new(), payload: Payload::Nothing, patience: 1 }
    }
}

/// An answer whose body is still to be read.
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Body,
}

impl Response {
    /// The value of a header, if it is there and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The values of a header that may be there more than once.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Speaks HTTP.
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    proxies: Proxies,
    limits: Limits,
    idle: Option<Connection>,
}

impl Client {
    pub(super) fn new(registry: &str, options: &RegistryOptions) -> Result<Self> {
        let limits = Limits { headers: 128, patience: options.timeout };
        let proxies = options.proxies.clone();
        Ok(Self { tls: tls::config(registry, options)?, proxies, limits, idle: None })
    }

    /// Sends a request and reads the head of the answer.
    ///
    /// # Errors
    /// When there is none. Whoever has answered before all was sent, has answered.
    pub(super) fn send(&mut self, mut request: Request<'_>) -> Result<Response> {
        let url = request.url;
        let idempotent = matches!(request.method, "GET" | "HEAD");
        // A connection that has lain idle may be gone: only what can be asked twice goes over it.
        if idempotent
            && let Some(idle) = self.idle.take().filter(|idle| idle.origin == url.origin)
            && let Ok(response) = exchange(idle, &mut request, self.limits)
        {
            return Ok(response);
        }
        let attempt = || failure::attempt(request.method, url);
        let proxy = self.proxies.on_the_way_to(&url.origin);
        let connection =
            Connection::open(&url.origin, proxy, &self.tls, self.limits.patience).map_err(|error| {
                failure::connecting(error, &attempt(), &url.origin, proxy.map(|proxy| &proxy.origin))
            })?;
        exchange(connection, &mut request, self.limits)
            .map_err(|error| failure::exchanging(error, failure::attempt(request.method, url)))
    }

    /// The whole body of a small answer, whose connection may be used again.
    pub(super) fn read(&mut self, response: Response, limit: u64, what: &str) -> Result<Vec<u8>> {
        let closes = response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let (bytes, connection) = response.body.bounded(limit, what)?;
        self.idle = connection.filter(|_| !closes);
        Ok(bytes)
    }
}

fn exchange(mut connection: Connection, request: &mut Request<'_>, limits: Limits) -> io::Result<Response> {
    let sent = write_request(&mut connection, request);
    connection.wait_at_most(limits.patience * request.patience)?;
    let head = read_head(&mut connection);
    let head = match (sent, head) {
        // An early answer counts: "unauthorized" is one.
        (_, Ok(head)) => head,
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
    };
    connection.wait_at_most(limits.patience)?;
    let (status, headers) = parse_head(&head, limits)?;
    let framing = framing(request.method, status, &headers)?;
    Ok(Response { status, headers, body: Body::new(connection, framing, limits) })
}

fn write_request(connection: &mut Connection, request: &mut Request<'_>) -> io::Result<()> {
    let Url { origin, path } = request.url;
    let (target, to_proxy) = match &connection.passed_on_by {
        Some(proxy) => (Proxy::target(request.url), proxy.header()),
        None => (path.clone(), String::new()),
    };
    let mut head = format!(
        "{} {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: migrate/{}\r\n{to_proxy}",
        request.method,
        origin.authority(),
        env!("CARGO_PKG_VERSION")
    );
    let length = match &request.payload {
        Payload::Nothing if matches!(request.method, "GET" | "HEAD") => None,
        Payload::Nothing => Some(0),
        Payload::Bytes(bytes) => Some(bytes.len() as u64),
        Payload::Stream(_, length) => Some(*length),
    };
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in &request.headers {
        // Values come from files of credentials and from answers.
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the header {name} has control characters"),
            ));
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    connection.write_all(head.as_bytes())?;
    match &mut request.payload {
        Payload::Nothing => {}
        Payload::Bytes(bytes) => connection.write_all(bytes)?,
        Payload::Stream(from, length) => {
            let mut buffer = vec![0; 128 << 10];
            let mut left = *length;
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let read = from.read(&mut buffer[..most])?;
                if read == 0 {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file has become shorter"));
                }
                connection.write_all(&buffer[..read])?;
                left -= read as u64;
            }
        }
    }
    connection.flush()
}

/// The bytes up to and including the empty line. What precedes the final answer is skipped.
fn read_head(connection: &mut Connection) -> io::Result<Vec<u8>> {
    loop {
        let mut head = Vec::new();
        loop {
            let before = head.len();
            connection.take((HEAD - before) as u64 + 1).read_until(b'\n', &mut head)?;
            if head.len() > HEAD {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the head of the answer is too large",
                ));
            }
            if !head.ends_with(b"\n") {
                let what = "the connection ended before the answer";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            if matches!(&head[before..], b"\r\n" | b"\n") {
                break;
            }
        }
        let is_interim =
            head.get(9) == Some(&b'1') && head.starts_with(b"HTTP/1.") && !head.starts_with(b"HTTP/1.1 101");
        if !is_interim {
            return Ok(head);
        }
    }
}

fn parse_head(head: &[u8], limits: Limits) -> io::Result<(u16, Vec<(String, String)>)> {
    let wrong = |what: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not an answer of HTTP: {what}"))
    };
    let mut headers = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(head).map_err(|error| wrong(&error))?;
    let (true, Some(code)) = (status.is_complete(), response.code) else {
        return Err(wrong(&"it has no status"));
    };
    let text = |header: &httparse::Header<'_>| {
        Some((header.name.to_owned(), std::str::from_utf8(header.value).ok()?.trim().to_owned()))
    };
    Ok((code, response.headers.iter().filter_map(text).collect()))
}

/// Where the body ends (RFC 9112, section 6.3).
fn framing(method: &str, status: u16, headers: &[(String, String)]) -> io::Result<Framing> {
    let find = |name: &'static str| {
        headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    };
    if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::Length(0));
    }
    if let Some(coding) = find("transfer-encoding").next() {
        if coding.eq_ignore_ascii_case("chunked") {
            return Ok(Framing::Chunked(None));
        }
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer has an unknown transfer encoding",
        ));
    }
    let mut lengths = find("content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(Framing::ToTheEnd),
        (Some(length), None) if length.bytes().all(|byte| byte.is_ascii_digit()) => length
            .parse()
            .map(Framing::Length)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer has an impossible length")),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not say how long it is")),
    }
}

/// What came is not what a registry answers.
pub(super) fn invalid_answer(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Registry, message)
}

/// The same origin over the other protocol.
pub(super) fn over_plain_http(origin: &Origin) -> Origin {
    Origin { scheme: Scheme::Http, ..origin.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing_of(method: &str, status: u16, headers: &[(&str, &str)]) -> io::Result<Framing> {
        let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        framing(method, status, &headers)
    }

    #[test]
    fn the_end_of_a_body_is_known() {
        for (method, status, headers, expected) in [
            ("HEAD", 200, &[("content-length", "7")][..], Framing::Length(0)),
            ("GET", 204, &[], Framing::Length(0)),
            ("GET", 200, &[("Content-Length", "7")], Framing::Length(7)),
            (
                "GET",
                200,
                &[("Transfer-Encoding", "chunked"), ("Content-Length", "7")],
                Framing::Chunked(None),
            ),
            ("GET", 200, &[], Framing::ToTheEnd),
        ] {
            assert_eq!(framing_of(method, status, headers).expect("clear"), expected);
        }
        for headers in [
            &[("content-length", "-1")][..],
            &[("content-length", "7"), ("content-length", "8")],
            &[("content-length", "99999999999999999999")],
            &[("transfer-encoding", "gzip")],
        ] {
            assert!(framing_of("GET", 200, headers).is_err(), "{headers:?}");
        }
    }
}
