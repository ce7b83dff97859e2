// SPDX-License-Identifier: Apache-2.0
//! A registry that is spoken to about one repository: who we are, redirects, and what an answer that is no success means.
//!
//! ```text
//! call ─▶ request ─▶ 401 and a challenge ─▶ token from its realm, or user and password ─▶ request once more
//!                 └▶ redirect (GET, HEAD) ─▶ request there, with `Authorization` only if it is the same origin
//! ```

use serde::Deserialize;

use super::RegistryOptions;
use super::challenge::{Challenge, choose};
use super::credentials::{self, Credentials, Found};
use super::http::url::{Origin, Scheme, Url, encoded};
use super::http::{Client, Payload, Request, Response, invalid_answer, is_not_tls, over_plain_http};
use super::reference::ImageName;
use crate::{Context, Error, ErrorKind, Result};

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// Largest answer of a token service, and largest text of an error that is looked at.
const SMALL: u64 = 1 << 20;

/// What is wanted of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// A repository in a registry.
pub(super) struct Session {
    client: Client,
    origin: Origin,
    pub(super) image: ImageName,
    access: Access,
    found: Found,
    insecure: bool,
    /// The value of `Authorization`, once the registry has asked for one.
    authorization: Option<String>,
}

/// A request to the registry.
pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: &'a [u8],
    pub(super) patience: u32,
}

impl Call<'_> {
    pub(super) fn new(method: &'static str, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), body: &[], patience: 1 }
    }
}

impl Session {
    /// Finds out how the registry is spoken to, and whether it is one.
    ///
    /// # Errors
    /// `Registry` if it cannot be reached, wants other credentials, or is none.
    pub(super) fn begin(image: &ImageName, access: Access, options: &RegistryOptions) -> Result<Self> {
        let mut session = Self {
            client: Client::new(&image.registry, options)?,
            origin: Origin::new(Scheme::Https, image.host())
                .context_kind(ErrorKind::InvalidInput, || format!("understand {image}"))?,
            image: image.clone(),
            access,
            found: credentials::find(image, options)?,
            insecure: !options.tls_verify,
            authorization: None,
        };
        let attempt = || format!("speak to the registry {}", image.registry);
        match session.ping() {
            Err(error) if session.insecure && is_not_tls(&error) => {
                session.origin = over_plain_http(&session.origin);
                session.ping().context(attempt)?;
            }
            other => other.context(attempt)?,
        }
        Ok(session)
    }

    fn ping(&mut self) -> Result<()> {
        let response = self.call(&Call::new("GET", Url::new(&self.origin, "/v2/")))?;
        match response.status {
            200 => self.client.read(response, SMALL, "the registry's greeting").map(drop),
            404 => Err(invalid_answer(format!("{} has no /v2/: it is not a registry", self.origin))
                .with_hint("see whether the host and the port are right")),
            _ => Err(self.refusal("GET /v2/", response)),
        }
    }

    /// The address of something in the repository.
    pub(super) fn url(&self, path: &str) -> Url {
        Url::new(&self.origin, format!("/v2/{}/{path}", self.image.repository))
    }

    /// Sends a request, with what the registry wants to know of us, and follows redirects if nothing is changed by it.
    pub(super) fn call(&mut self, call: &Call<'_>) -> Result<Response> {
        let mut url = call.url.clone();
        let mut has_asked = false;
        for _ in 0..=REDIRECTS {
            let payload = if call.body.is_empty() { Payload::Nothing } else { Payload::Bytes(call.body) };
            let request = Request {
                headers: call.headers.clone(),
                payload,
                patience: call.patience,
                ..Request::new(call.method, &url)
            };
            let response = self.send(request)?;
            let may_follow = matches!(call.method, "GET" | "HEAD")
                && matches!(response.status, 301 | 302 | 303 | 307 | 308);
            match (response.status, response.header("location")) {
                (401, _) if !has_asked && url.origin == self.origin => {
                    has_asked = true;
                    self.authorize(response)?;
                }
                (_, Some(location)) if may_follow => {
                    let next = url.join(location).context(|| format!("follow the redirect from {url}"))?;
                    if url.origin.scheme == Scheme::Https
                        && next.origin.scheme == Scheme::Http
                        && !self.insecure
                    {
                        return Err(invalid_answer(format!(
                            "{url} redirects to {next}, which is not encrypted"
                        )));
                    }
                    url = next;
                }
                _ => return Ok(response),
            }
        }
        Err(invalid_answer(format!("{} redirects more than {REDIRECTS} times", call.url)))
    }

    /// Sends one request; secrets of the registry go to the registry only.
    pub(super) fn send(&mut self, mut request: Request<'_>) -> Result<Response> {
        if request.url.origin == self.origin
            && let Some(authorization) = &self.authorization
        {
            request.headers.push(("Authorization", authorization.clone()));
        }
        self.client.send(request)
    }

    /// The whole of a small answer.
    pub(super) fn read(&mut self, response: Response, limit: u64, what: &str) -> Result<Vec<u8>> {
        self.client.read(response, limit, what)
    }

    /// Meets the challenge of a 401.
    pub(super) fn authorize(&mut self, response: Response) -> Result<()> {
        let challenge = choose(response.headers("www-authenticate"));
        // Whatever it says, it is read, so that the connection can be used again.
        let _ = self.client.read(response, SMALL, "the registry's answer");
        self.authorization = match challenge {
            Some(Challenge::Basic) => {
                let basic = self.found.credentials.as_ref().and_then(Credentials::basic);
                Some(basic.ok_or_else(|| self.unauthorized("it wants a user and a password"))?)
            }
            Some(Challenge::Bearer { realm, service, scope }) => {
                Some(format!("Bearer {}", self.token(&realm, service.as_deref(), scope.as_deref())?))
            }
            None => {
                return Err(self.unauthorized("it does not say how to log in in a way that is known here"));
            }
        };
        Ok(())
    }

    /// Buys a token for this repository.
    fn token(&mut self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut url = Url::parse(realm).context(|| "understand where the registry's tokens come from")?;
        if url.origin.scheme == Scheme::Http && self.origin.scheme == Scheme::Https && !self.insecure {
            return Err(invalid_answer(format!("its tokens would come from {url}, which is not encrypted")));
        }
        let actions = if self.access == Access::Push { "pull,push" } else { "pull" };
        let wanted = format!("repository:{}:{actions}", self.image.repository);
        // At `/v2/` a registry does not know yet what is wanted; later it may want more than that.
        let scope = scope
            .filter(|scope| scope.contains(&format!("repository:{}:", self.image.repository)))
            .unwrap_or(&wanted);
        let attempt = format!("get a token from {url} for {scope}");
        let mut form = String::new();
        let response = if let Some(Credentials::IdentityToken(token)) = &self.found.credentials {
            for (name, value) in [
                ("grant_type", "refresh_token"),
                ("client_id", "migrate"),
                ("service", service.unwrap_or_default()),
                ("scope", scope),
                ("refresh_token", token),
            ] {
                form.push_str(&format!(
                    "{}{name}={}",
                    if form.is_empty() { "" } else { "&" },
                    encoded(value)
                ));
            }
            let content_type = ("Content-Type", "application/x-www-form-urlencoded".to_owned());
            let payload = Payload::Bytes(form.as_bytes());
            self.client.send(Request { headers: vec![content_type], payload, ..Request::new("POST", &url) })
        } else {
            if let Some(service) = service {
                url = url.with_query("service", service);
            }
            url = url.with_query("scope", scope);
            let basic = self.found.credentials.as_ref().and_then(Credentials::basic);
            let headers = basic.map(|basic| ("Authorization", basic)).into_iter().collect();
            self.client.send(Request { headers, ..Request::new("GET", &url) })
        };
        let response = response.context(|| attempt.clone())?;
        match response.status {
            200 => {}
            401 | 403 => {
                return Err(self
                    .unauthorized("its token service refuses")
                    .with_source(self.refusal(&attempt, response)));
            }
            _ => return Err(self.refusal(&attempt, response)),
        }
        let bytes = self.client.read(response, SMALL, "the token")?;
        // What serde says of a wrong value may hold the value.
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        let token =
            answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| invalid_answer(format!("{attempt}: the answer has no token")))
    }

    fn unauthorized(&self, why: &str) -> Error {
        let registry = &self.image.registry;
        Error::new(ErrorKind::Registry, format!("{} was asked {}: {why}", registry, self.found.told()))
            .with_hint(format!("log in with `podman login {registry}`, or name a file of credentials with --authfile or --creds-file"))
    }

    /// What an answer means that is no success.
    pub(super) fn refusal(&mut self, attempt: &str, response: Response) -> Error {
        let status = response.status;
        let text =
            self.client.read(response, SMALL, "the answer").map(|bytes| reasons(&bytes)).unwrap_or_default();
        let reason = if text.is_empty() { String::new() } else { format!(" ({text})") };
        let registry = &self.image.registry;
        let message = format!("{attempt}: {registry} answers {status}{reason}");
        let error =
            Error::new(if status == 404 { ErrorKind::NotFound } else { ErrorKind::Registry }, message);
        match status {
            401 => error.with_source(self.unauthorized("it does not accept that")),
            403 => error.with_hint(format!(
                "it was asked {}: they may not do this in {}",
                self.found.told(),
                self.image.repository
            )),
            404 => error.with_hint("see whether the name and the tag are right; some registries say this of what may not be seen, too"),
            413 => error.with_hint("something before the registry limits the size of a request: pass --chunk-size, such as 16M"),
            429 => error.with_hint("it has had too many requests from here: try again later"),
            400 if text_is_of_go(&reason) => {
                error.with_hint("the registry wants https: do not pass --tls-verify=false, or see whether the port is right")
            }
            500.. => error.with_hint("the registry has a failure of its own: see its log, or try again later"),
            _ => error,
        }
    }
}

/// What servers written in Go say to who speaks without encryption where there is some.
fn text_is_of_go(text: &str) -> bool {
    text.contains("HTTP request to an HTTPS server")
}

/// The messages in the body of an error, or its beginning.
fn reasons(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(found) => {
            let all: Vec<String> =
                found.errors.iter().take(3).map(|e| format!("{}: {}", e.code, e.message)).collect();
            all.join("; ")
        }
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_and_printable() {
        let json = br#"{"errors":[{"code":"DENIED","message":"no\u001b[2J"},{"code":"X"}]}"#;
        assert_eq!(reasons(json), "DENIED: no [2J; X:");
        assert_eq!(reasons(b"<html>\n"), "<html>");
        assert!(reasons(&[b'x'; 9999]).len() <= 300);
    }
}
