// SPDX-License-Identifier: Apache-2.0
//! Who the caller is to a registry: what was given, else what `podman login` and `docker login` have left in their files, else
//! what a credential helper of theirs says. No password is ever in an argument, a message or `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::RegistryOptions;
use super::reference::ImageName;
use crate::sys::command::{Ending, ShortCommand, run};
use crate::{Context, Error, ErrorKind, Result};

/// Largest file of credentials.
const LARGEST: u64 = 4 << 20;

/// How long a helper may take: some ask a service far away.
const HELPER_TIME: Duration = Duration::from_secs(60);

/// The user name that says that the secret is a token of an identity.
const TOKEN_USER: &str = "<token>";

/// A user and a password, or a token that stands for both.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// As at a log-in.
    Password {
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// A refresh token of OAuth 2.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
        })
    }
}

impl Credentials {
    /// Reads `USER:PASSWORD`.
    ///
    /// # Errors
    /// `InvalidInput` if there is no colon.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() => {
                Ok(Self::Password { user: user.to_owned(), password: password.to_owned() })
            }
            _ => Err(Error::new(ErrorKind::InvalidInput, "credentials are not of the form USER:PASSWORD")),
        }
    }

    /// The value of the header that says this; `None` for a token, which buys other tokens only.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::IdentityToken(_) => None,
        }
    }
}

/// What was found, and where it was looked for, for the error of a registry that says no.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) credentials: Option<Credentials>,
    pub(super) looked_at: Vec<String>,
}

impl Found {
    /// For people: where credentials came from, or where there were none.
    pub(super) fn told(&self) -> String {
        match (&self.credentials, self.looked_at.last()) {
            (Some(_), Some(last)) => format!("with the credentials from {last}"),
            _ if self.looked_at.is_empty() => {
                "without credentials: no file of credentials is there".to_owned()
            }
            _ => format!("without credentials: {} has none for it", self.looked_at.join(", ")),
        }
    }
}

/// Looks for the credentials for an image.
pub(super) fn find(image: &ImageName, options: &RegistryOptions) -> Result<Found> {
    if let Some(given) = &options.credentials {
        return Ok(Found { credentials: Some(given.clone()), looked_at: vec!["the caller".to_owned()] });
    }
    let mut found = Found::default();
    for (path, wanted) in files(options) {
        let Some(file) = AuthFile::read(&path, wanted)? else { continue };
        found.looked_at.push(path.display().to_string());
        if let Some(credentials) = file.credentials(image).context(|| format!("use {}", path.display()))? {
            found.credentials = Some(credentials);
            break;
        }
    }
    Ok(found)
}

/// Podman's files and then Docker's, and whether each must be there.
fn files(options: &RegistryOptions) -> Vec<(PathBuf, bool)> {
    if let Some(named) = &options.auth_file {
        return vec![(named.clone(), true)];
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![(named, true)];
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
    let of_user = format!("/run/containers/{}/auth.json", crate::sys::process::effective_ids().0);
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
    let all = [
        runtime,
        Some(of_user.into()),
        config.map(|directory| directory.join("containers/auth.json")),
        docker.map(|directory| directory.join("config.json")),
    ];
    all.into_iter().flatten().map(|path| (path, false)).collect()
}

/// A file of credentials.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthFile {
    auths: std::collections::BTreeMap<String, Auth>,
    #[serde(rename = "credHelpers")]
    helpers: std::collections::BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl AuthFile {
    fn read(path: &Path, wanted: bool) -> Result<Option<Self>> {
        let attempt = || format!("read the credentials in {}", path.display());
        let bytes = match read_bounded(path) {
            Ok(bytes) => bytes,
            Err(error)
                if !wanted
                    && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).context(attempt),
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Some(Self::default()));
        }
        // What serde says of a wrong value may hold the value.
        let parsed = serde_json::from_slice(&bytes).map_err(|error| {
            let place =
                format!("it is not JSON of credentials (line {}, column {})", error.line(), error.column());
            Error::new(ErrorKind::InvalidInput, place)
        });
        parsed.context(attempt).map(Some)
    }

    fn credentials(&self, image: &ImageName) -> Result<Option<Credentials>> {
        let names = image.credential_names();
        for name in &names {
            if let Some(helper) = self.helpers.get(*name) {
                return ask(helper, name);
            }
        }
        // Podman knows credentials for a part of a registry: the longest name is meant.
        let wanted = names.iter().flat_map(|name| {
            let mut of_parts = vec![format!("{name}/{}", image.repository)];
            while let Some((shorter, _)) = of_parts.last().and_then(|last| last.rsplit_once('/')) {
                of_parts.push(shorter.to_owned());
            }
            of_parts
        });
        for wanted in wanted {
            if let Some((_, auth)) = self.auths.iter().find(|(name, _)| normal(name) == wanted)
                && let Some(credentials) = auth.decode()?
            {
                return Ok(Some(credentials));
            }
        }
        match &self.store {
            // Docker writes the name of its own registry as an address.
            Some(helper) => {
                let name = if names.len() > 1 { "https://index.docker.io/v1/" } else { names[0] };
                ask(helper, name)
            }
            None => Ok(None),
        }
    }
}

/// `https://host/v1/` is how Docker writes `host`.
fn normal(name: &str) -> &str {
    let host = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"));
    match host {
        Some(host) => host.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
        None => name,
    }
}

impl Auth {
    fn decode(&self) -> Result<Option<Credentials>> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::IdentityToken(token.clone())));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) else { return Ok(None) };
        let bytes = STANDARD.decode(auth).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a field `auth` is not base64 of a text"))?;
        Credentials::parse(text.trim_end_matches('\0')).map(Some)
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is too large"));
    }
    std::fs::read(path)
}

/// What a helper answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks `docker-credential-NAME`, from the caller's `PATH`.
fn ask(helper: &str, registry: &str) -> Result<Option<Credentials>> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if helper.is_empty() || !helper.chars().all(good) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{helper:?} is not the name of a credential helper"),
        ));
    }
    ask_program(Path::new(&format!("docker-credential-{helper}")), registry)
}

fn ask_program(program: &Path, registry: &str) -> Result<Option<Credentials>> {
    let attempt = || format!("ask {} for the credentials for {registry}", program.display());
    let command = ShortCommand {
        path: program.to_owned(),
        args: vec![program.into(), "get".into()],
        environment: None,
        directory: None,
        input: registry.as_bytes(),
        timeout: Some(HELPER_TIME),
    };
    let outcome = run(&command).context(attempt)?;
    if outcome.ending == Ending::Exit(0) {
        // What serde says of a wrong value may hold the value.
        let answer: Option<Answer> = serde_json::from_slice(&outcome.stdout).ok();
        let answer = answer.ok_or_else(|| {
            Error::new(ErrorKind::Registry, format!("{}: its answer is not understood", attempt()))
        })?;
        return Ok(Some(match answer.user.as_str() {
            TOKEN_USER => Credentials::IdentityToken(answer.secret),
            _ => Credentials::Password { user: answer.user, password: answer.secret },
        }));
    }
    let said = [outcome.stdout, outcome.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // The words of the protocol for "none".
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    Err(Error::new(ErrorKind::Registry, format!("{}: {} ({:?})", attempt(), said.trim(), outcome.ending)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Reference;
    use super::*;

    fn image(text: &str) -> ImageName {
        match text.parse().expect(text) {
            Reference::Registry(name) => name,
            Reference::Layout { .. } => panic!("{text} is in no registry"),
        }
    }

    fn found_in(json: &str, name: &str) -> Result<Option<Credentials>> {
        let file: AuthFile = serde_json::from_str(json).expect("JSON");
        file.credentials(&image(name))
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn files_of_podman_and_docker_are_read() {
        let (ab, cd) = (STANDARD.encode("a:b"), STANDARD.encode("c:d:e"));
        let podman =
            format!(r#"{{"auths":{{"r.example":{{"auth":"{ab}"}},"r.example/team/x":{{"auth":"{cd}"}}}}}}"#);
        for (json, name, expected) in [
            (podman.as_str(), "r.example/web", Some(password("a", "b"))),
            (&podman, "r.example/team/x", Some(password("c", "d:e"))),
            (&podman, "r.example/team/x/y", Some(password("c", "d:e"))),
            (&podman, "r.example/team/xy", Some(password("a", "b"))),
            (&podman, "r.example:5000/web", None),
            (
                &format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{ab}"}}}}}}"#),
                "docker.io/u/x",
                Some(password("a", "b")),
            ),
            (
                &format!(r#"{{"auths":{{"https://r.example/v2/":{{"auth":"{ab}"}}}}}}"#),
                "r.example/x",
                Some(password("a", "b")),
            ),
            (
                r#"{"auths":{"r.example":{"identitytoken":"t"}}}"#,
                "r.example/x",
                Some(Credentials::IdentityToken("t".into())),
            ),
            (r#"{"auths":{"r.example":{}},"more":1}"#, "r.example/x", None),
            ("{}", "r.example/x", None),
        ] {
            assert_eq!(found_in(json, name).expect("good"), expected, "{name} in {json}");
        }
        for json in [r#"{"auths":{"r.example":{"auth":"!"}}}"#, r#"{"credHelpers":{"r.example":"../x"}}"#] {
            assert!(found_in(json, "r.example/x").is_err(), "{json}");
        }
    }

    #[test]
    fn a_named_file_must_be_there_and_its_contents_are_not_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("auth.json");
        let options = RegistryOptions { auth_file: Some(path.clone()), ..RegistryOptions::default() };
        let missing = find(&image("r.example/x"), &options).expect_err("it is missing");
        assert!(missing.chain().contains("auth.json: no such file"), "{}", missing.chain());
        fs::write(&path, r#"{"auths": {"r.example": "secret"}}"#).expect("write");
        let wrong = find(&image("r.example/x"), &options).expect_err("it is wrong");
        assert!(
            wrong.chain().contains("line 1, column") && !wrong.chain().contains("secret"),
            "{}",
            wrong.chain()
        );
        fs::write(&path, "").expect("write");
        let found = find(&image("r.example/x"), &options).expect("empty");
        assert!(found.told().contains("auth.json has none"), "{}", found.told());
        assert!(!format!("{:?}", password("user", "secret")).contains("secret"));
    }

    #[test]
    fn a_helper_is_asked_without_a_shell() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("docker-credential-test");
        let says = |body: &str| {
            let script = format!("#!/bin/sh\n[ \"$*\" = get ] || exit 9\nread -r name || :\n{body}\n");
            fs::write(&path, script).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
            ask_program(&path, "r.example")
        };
        let answer = |user: &str| format!("echo '{{\"Username\":\"{user}\",\"Secret\":\"s of '$name'\"}}'");
        assert_eq!(says(&answer("u")).expect("an answer"), Some(password("u", "s of r.example")));
        let token = Some(Credentials::IdentityToken("s of r.example".into()));
        assert_eq!(says(&answer("<token>")).expect("an answer"), token);
        assert_eq!(says("echo credentials not found in native keychain; exit 1").expect("none"), None);
        let error = says("echo the keyring is locked >&2; exit 1").expect_err("it failed");
        assert!(error.chain().contains("the keyring is locked"), "{}", error.chain());
        let error = says("echo secret").expect_err("not JSON");
        assert!(!error.chain().contains("secret"), "{}", error.chain());
        let error = ask("that-is-not-there", "r.example").expect_err("there is none");
        assert!(
            error
                .chain()
                .contains("ask docker-credential-that-is-not-there for the credentials for r.example"),
            "{}",
            error.chain()
        );
    }
}
