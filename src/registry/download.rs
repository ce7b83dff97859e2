// SPDX-License-Identifier: Apache-2.0
//! Manifests and blobs on their way out of a registry: bounded, and compared with their digests before anybody uses them. A
//! download that broke goes on where it was.

use std::fs::File;
use std::io::{Read, Write};

use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::http::{Response, invalid_answer};
use super::manifest::{Descriptor, Leads, MANIFEST_MAX, Manifest, accepted};
use super::reference::Version;
use super::retries::{Failure, Retries};
use super::session::{Call, Session};
use crate::archive::Progress;
use crate::{Context, Error, ErrorKind, Result};

/// How deep an index may be.
const DEPTH: usize = 4;

const BUFFER: usize = 256 << 10;

/// A file that a blob is written to, at its end.
pub(super) struct Download {
    pub(super) file: File,
    have: u64,
    hasher: Sha256,
}

impl Download {
    /// Into an empty file.
    pub(super) fn new(file: File) -> Self {
        Self { file, have: 0, hasher: Sha256::new() }
    }

    /// Goes on in a file that has the beginning of the blob, which is read for its digest.
    pub(super) fn going_on(file: File, progress: &mut dyn Progress) -> Result<Self> {
        let mut new = Self::new(file);
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = new.file.read(&mut buffer).context(|| "read the part that is there")?;
            if read == 0 {
                return Ok(new);
            }
            new.hasher.update(&buffer[..read]);
            new.have += read as u64;
            progress.advance(read as u64);
        }
    }

    fn begin_again(&mut self) -> Result<()> {
        use std::io::Seek as _;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .context(|| "empty the file of the download")?;
        (self.have, self.hasher) = (0, Sha256::new());
        Ok(())
    }

    /// Compares what came with what was to come.
    fn verify(&self, blob: &Descriptor) -> Result<()> {
        let found = Digest::finished(self.hasher.clone());
        if self.have == blob.size && found == blob.digest {
            return Ok(());
        }
        let message =
            format!("blob {} has the digest {found}: what came is not what the manifest names", blob.digest);
        Err(Error::new(ErrorKind::InvalidArchive, message).with_hint(
            "pull again; if that does not help, the registry, or something before it, damages what it stores",
        ))
    }
}

impl Session {
    /// The blob that is the checkpoint.
    pub(super) fn find_checkpoint(&mut self, architecture: &str) -> Result<Descriptor> {
        let image = self.image.clone();
        let (mut version, mut digest) = match &image.version {
            Version::Tag(tag) => (tag.clone(), None),
            Version::Digest(digest) => (digest.to_string(), Some(digest.clone())),
        };
        for _ in 0..DEPTH {
            let bytes = self.manifest(&version, digest.as_ref())?;
            match Manifest::parse(&bytes)
                .and_then(|manifest| manifest.leads(architecture))
                .context(|| format!("read {image}"))?
            {
                Leads::Checkpoint(layer) => return Ok(layer),
                Leads::To(next) => {
                    version = next.digest.to_string();
                    digest = Some(next.digest);
                }
            }
        }
        Err(invalid_answer(format!("{image} is an index of indexes of indexes")))
    }

    fn manifest(&mut self, version: &str, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let attempt = format!("get the manifest of {}", self.image);
        let mut retries = Retries::default();
        loop {
            let mut call = Call::new("GET", self.url(&format!("manifests/{version}")));
            call.headers.push(("Accept", accepted()));
            let failure = match self.call(&call) {
                Ok(response) if response.status == 200 => {
                    let bytes =
                        self.read(response, MANIFEST_MAX, "the manifest").context(|| attempt.clone())?;
                    if let Some(digest) = digest.filter(|digest| **digest != Digest::of(&bytes)) {
                        let found = Digest::of(&bytes);
                        let message = format!("{attempt}: {digest} was asked for, and {found} came");
                        return Err(Error::new(ErrorKind::InvalidArchive, message));
                    }
                    return Ok(bytes);
                }
                Ok(response) => self.failure(&attempt, response),
                Err(error) => Failure::Broken(error),
            };
            retries.another(failure)?;
        }
    }

    /// Reads what a file lacks of a blob, and compares the whole with its digest.
    pub(super) fn download(
        &mut self,
        blob: &Descriptor,
        to: &mut Download,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        if to.have > blob.size {
            to.begin_again()?;
        }
        let mut retries = Retries::default();
        while to.have < blob.size {
            let before = to.have;
            let failed = self.download_more(blob, to, progress).err();
            if to.have > before {
                retries.progress();
            }
            if let Some(failure) = failed {
                retries.another(failure).context(|| {
                    format!(
                        "download {} of {}: {} of {} bytes are here",
                        blob.digest, self.image, to.have, blob.size
                    )
                })?;
            }
        }
        to.verify(blob)
    }

    fn download_more(
        &mut self,
        blob: &Descriptor,
        to: &mut Download,
        progress: &mut dyn Progress,
    ) -> std::result::Result<(), Failure> {
        let mut call = Call::new("GET", self.url(&format!("blobs/{}", blob.digest)));
        if to.have > 0 {
            call.headers.push(("Range", format!("bytes={}-", to.have)));
        }
        let mut response = self.call(&call).map_err(Failure::Broken)?;
        match response.status {
            // Who does not know ranges sends everything.
            200 if to.have > 0 => to.begin_again().map_err(Failure::Final)?,
            200 => {}
            206 if is_rest(&response, to.have) => {}
            206 => {
                return Err(Failure::Final(invalid_answer(
                    "the registry sends another part than was asked for",
                )));
            }
            _ => return Err(self.failure("get the blob", response)),
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match response.body.read(&mut buffer) {
                Ok(0) if to.have < blob.size => {
                    return Err(Failure::Broken(invalid_answer("the registry sends less than there is")));
                }
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) => {
                    let error = Error::new(ErrorKind::Registry, "read the blob").with_source(error);
                    return Err(Failure::Broken(error));
                }
            };
            if read as u64 > blob.size - to.have {
                return Err(Failure::Final(Error::new(
                    ErrorKind::InvalidArchive,
                    format!(
                        "blob {} is larger than the {} bytes that the manifest tells",
                        blob.digest, blob.size
                    ),
                )));
            }
            to.file.write_all(&buffer[..read]).context(|| "write the download").map_err(Failure::Final)?;
            to.hasher.update(&buffer[..read]);
            to.have += read as u64;
            progress.advance(read as u64);
        }
    }
}

fn is_rest(response: &Response, from: u64) -> bool {
    response.header("content-range").is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}
