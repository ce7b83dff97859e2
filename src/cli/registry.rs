// SPDX-License-Identifier: Apache-2.0
//! The flags for registries, and the way of a checkpoint that becomes an image at once.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::output;
use super::progress::Bar;
use crate::checkpoint::{Export, Passed, signals_to_give_up};
use crate::engine::ContainerId;
use crate::registry::{Credentials, Proxies, Reference, RegistryOptions, check_push, push};
use crate::{Context, Error, ErrorKind, Result};

/// Where credentials may be, for those who have no file.
const CREDENTIALS: &str = "MIGRATE_REGISTRY_CREDS";

/// Largest file with a user and a password.
const LARGEST: u64 = 64 << 10;

pub(super) fn reference(text: &str) -> Result<Reference> {
    text.parse()
}

/// How a registry is spoken to.
#[derive(Debug, clap::Args)]
pub(super) struct RegistryArgs {
    /// Whether a registry must prove who it is; if not, it may be one without encryption, too
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set, default_value = "true", hide_default_value = true)]
    tls_verify: bool,
    /// Certificates of authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Directory with a registry's certificates: authorities in *.crt, one of our own in NAME.cert and NAME.key
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// File of credentials [default: those of `podman login` and `docker login`]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// File with USER:PASSWORD; `-` is stdin [default: $MIGRATE_REGISTRY_CREDS, if it is set]
    #[arg(long, value_name = "FILE")]
    creds_file: Option<PathBuf>,
}

impl RegistryArgs {
    pub(super) fn options(&self) -> Result<RegistryOptions> {
        let credentials = match (&self.creds_file, std::env::var(CREDENTIALS)) {
            (Some(path), _) => Some(credentials_in(path)?),
            (None, Ok(text)) if !text.is_empty() && self.authfile.is_none() => {
                Some(Credentials::parse(&text).context(|| format!("understand ${CREDENTIALS}"))?)
            }
            _ => None,
        };
        Ok(RegistryOptions {
            tls_verify: self.tls_verify,
            ca_file: self.ca_file.clone(),
            cert_dir: self.cert_dir.clone(),
            auth_file: self.authfile.clone(),
            credentials,
            proxies: Proxies::of_environment()?,
            ..RegistryOptions::default()
        })
    }
}

fn credentials_in(path: &Path) -> Result<Credentials> {
    let attempt = || format!("read the credentials in {}", path.display());
    let mut text = String::new();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(fs::File::open(path).context(attempt)?),
    };
    source.take(LARGEST).read_to_string(&mut text).context(attempt)?;
    Credentials::parse(&text).context(attempt)
}

/// An image that a checkpoint becomes: by way of a file, which stays if the image cannot be made of it. The container may be gone
/// by then.
pub(super) struct NewImage {
    reference: Reference,
    options: RegistryOptions,
    file: PathBuf,
    /// The directory of a file that nobody has named.
    own: Option<PathBuf>,
}

impl NewImage {
    /// Finds out whether it can be pushed, before anything is stopped, and where the file goes.
    pub(super) fn begin(
        reference: &Reference,
        options: RegistryOptions,
        id: &ContainerId,
        export: &mut Option<Export>,
    ) -> Result<Self> {
        check_push(reference, &options)?;
        let (file, own) = match export {
            Some(Export::File(file)) => (file.clone(), None),
            Some(Export::Stream(_) | Export::Passed(_) | Export::Peer(_)) => {
                let message = "an archive on stdout cannot be pushed, too";
                return Err(
                    Error::new(ErrorKind::InvalidInput, message).with_hint("name a file with --export")
                );
            }
            None => {
                let directory = own_directory(id)?;
                let file = directory.join(format!("{id}.tar.zst"));
                *export = Some(Export::File(file.clone()));
                (file, Some(directory))
            }
        };
        Ok(Self { reference: reference.clone(), options, file, own })
    }

    /// Checkpoints a container into it that stands still until it is where it belongs. It ends then, and runs on if it cannot be pushed:
    /// nothing stays of the file in either case.
    pub(super) fn and_end(
        reference: &Reference,
        options: RegistryOptions,
        id: &ContainerId,
        checkpoint: impl FnOnce(Export) -> Result<()>,
    ) -> Result<()> {
        // Before any thread is made.
        let give_up = signals_to_give_up()?;
        check_push(reference, &options)?;
        let directory = own_directory(id)?;
        let file = directory.join(format!("{id}.tar.zst"));
        let (tell, told) = mpsc::channel();
        let (archive, to) = (file.clone(), reference.clone());
        let take = move || {
            // Who does not listen any more has given up.
            let _ = tell.send(push(&archive, &to, &options, &mut Bar::new("pushing"))?);
            Ok(())
        };
        let ended = checkpoint(Export::Passed(Passed { file, take: Box::new(take), give_up }));
        let removed = fs::remove_dir_all(&directory).context(|| format!("remove {}", directory.display()));
        match (ended, told.try_recv()) {
            (Ok(()), Ok(pushed)) => removed.and_then(|()| output::text(&format!("{}\n", pushed.digest))),
            (Ok(()), Err(_)) => removed,
            (Err(error), Ok(pushed)) => {
                let hint = format!("the image {reference} is there: {}", pushed.digest);
                Err(error.with_hint(hint).with_cleanup(removed.err()))
            }
            (Err(error), Err(_)) => Err(error.with_cleanup(removed.err())),
        }
    }

    /// Pushes the file that is there now.
    pub(super) fn push(mut self) -> Result<()> {
        let own = self.own.take();
        let pushed =
            push(&self.file, &self.reference, &self.options, &mut Bar::new("pushing")).map_err(|error| {
                let why = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
                let file = self.file.display();
                error.with_hint(format!(
                    "{why}the checkpoint is in {file}: `migrate push {file} {}`",
                    self.reference
                ))
            })?;
        if let Some(directory) = own {
            fs::remove_dir_all(&directory).context(|| format!("remove {}", directory.display()))?;
        }
        output::text(&format!("{}\n", pushed.digest))
    }
}

impl Drop for NewImage {
    /// There is no checkpoint. What is in the directory then, if anything, is somebody's.
    fn drop(&mut self) {
        if let Some(directory) = &self.own {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// A directory for one checkpoint on a disk: `/tmp` is memory on some machines.
fn own_directory(id: &ContainerId) -> Result<PathBuf> {
    let named = std::env::var_os("TMPDIR").filter(|name| !name.is_empty());
    let parent = PathBuf::from(named.as_deref().unwrap_or(OsStr::new("/var/tmp")));
    let mut number = 0_u32;
    loop {
        let directory = parent.join(format!("migrate-{id}-{}-{number}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => {
                return Err(error).context(|| format!("make the directory {}", directory.display()));
            }
        }
    }
}
