// SPDX-License-Identifier: Apache-2.0
//! Blobs and manifests on their way into a registry.
//!
//! ```text
//! HEAD blob ── there ─▶ done
//! POST ─▶ place ─▶ PATCH … PATCH ─▶ PUT ─▶ done
//!           ▲         │ broken       │ broken: HEAD blob
//!           └── GET place: how far? ◀┘
//! ```
//! A step that broke is not repeated blindly: the registry is asked how far it has come.

use std::io::{self, Read, Seek, SeekFrom};

use super::http::url::Url;
use super::http::{Payload, Request, Response, invalid_answer};
use super::manifest::Descriptor;
use super::retries::{Failure, Retries};
use super::session::{Call, Session};
use crate::archive::Progress;
use crate::{Context, Result};

/// How much longer than anything else the last step may take: the registry reads the whole blob once more.
const COMMIT_PATIENCE: u32 = 20;

/// Where an upload is, and how far.
struct Place {
    location: Url,
    offset: u64,
}

/// What one step came to.
enum Step {
    On(Place),
    Done,
    /// The registry does not know of the upload any more.
    Lost,
}

/// What is to be done next.
enum Next {
    /// The step from here; without a place the first one.
    Step(Option<Place>),
    /// To ask there how far it is.
    Ask(Url),
}

/// A blob that is being sent.
struct Upload<'a, S> {
    session: &'a mut Session,
    blob: &'a Descriptor,
    source: &'a mut S,
    chunk: u64,
    progress: &'a mut dyn Progress,
    /// As far as it was ever sent, which is as far as progress is told.
    sent: u64,
}

impl Session {
    /// Whether the registry has the blob.
    pub(super) fn has_blob(&mut self, blob: &Descriptor) -> Result<bool> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let response = self.call(&Call::new("HEAD", url))?;
        match response.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.refusal("look for the blob", response)),
        }
    }

    /// Sends a blob, unless it is there.
    pub(super) fn upload<S: Read + Seek>(
        &mut self,
        blob: &Descriptor,
        source: &mut S,
        chunk: Option<u64>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        if self.has_blob(blob)? {
            progress.advance(blob.size);
            return Ok(());
        }
        let chunk = chunk.unwrap_or(u64::MAX).max(1);
        let mut upload = Upload { session: self, blob, source, chunk, progress, sent: 0 };
        upload.run().context(|| format!("upload {}", blob.digest))?;
        let told = upload.sent.min(blob.size);
        progress.advance(blob.size - told);
        Ok(())
    }

    /// Gives a manifest its name, which makes the image visible.
    pub(super) fn put_manifest(&mut self, version: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let mut call = Call::new("PUT", self.url(&format!("manifests/{version}")));
        call.headers.push(("Content-Type", media_type.to_owned()));
        call.body = bytes;
        let mut retries = Retries::default();
        // To put the same manifest twice is to put it once.
        loop {
            let failure = match self.call(&call) {
                Ok(response) if matches!(response.status, 200 | 201) => return Ok(()),
                Ok(response) => self.failure("put the manifest", response),
                Err(error) => Failure::Broken(error),
            };
            retries.another(failure)?;
        }
    }

    /// What an answer means that is no success, and whether it may be another one later.
    pub(super) fn failure(&mut self, attempt: &str, response: Response) -> Failure {
        let may_pass = matches!(response.status, 408 | 429 | 500 | 502 | 503 | 504);
        let error = self.refusal(attempt, response);
        if may_pass { Failure::Broken(error) } else { Failure::Final(error) }
    }
}

impl<S: Read + Seek> Upload<'_, S> {
    fn run(&mut self) -> Result<()> {
        let mut retries = Retries::default();
        let mut next = Next::Step(None);
        let mut best = 0;
        loop {
            let (location, result) = match next {
                Next::Step(place) => (place.as_ref().map(|place| place.location.clone()), self.step(place)),
                Next::Ask(location) => {
                    let result = self.asked(&location);
                    (Some(location), result)
                }
            };
            next = match result {
                Ok(Step::Done) => return Ok(()),
                Ok(Step::Lost) => Next::Step(None),
                Ok(Step::On(place)) => {
                    if place.offset > best {
                        best = place.offset;
                        retries.progress();
                    }
                    Next::Step(Some(place))
                }
                Err(failure) => {
                    retries.another(failure)?;
                    location.map_or(Next::Step(None), Next::Ask)
                }
            };
        }
    }

    fn step(&mut self, place: Option<Place>) -> std::result::Result<Step, Failure> {
        match place {
            None => self.start(),
            Some(place) if place.offset < self.blob.size => self.send(&place),
            Some(place) => self.commit(&place),
        }
    }

    /// To begin twice leaves one upload unused, which the registry forgets.
    fn start(&mut self) -> std::result::Result<Step, Failure> {
        let url = self.session.url("blobs/uploads/");
        let response = self.session.call(&Call::new("POST", url.clone())).map_err(Failure::Broken)?;
        match response.status {
            202 => Ok(Step::On(Place { location: location(&response, &url)?, offset: 0 })),
            _ => Err(self.session.failure("begin an upload", response)),
        }
    }

    /// Sends from the offset to the end of the chunk.
    fn send(&mut self, place: &Place) -> std::result::Result<Step, Failure> {
        let length = self.chunk.min(self.blob.size - place.offset);
        let end = place.offset + length;
        let read = |error: io::Error| Failure::Final(failed_source(error));
        self.source.seek(SeekFrom::Start(place.offset)).map_err(read)?;
        let mut counted = Counted {
            source: &mut *self.source,
            at: place.offset,
            sent: &mut self.sent,
            progress: &mut *self.progress,
        };
        let request = Request {
            headers: vec![
                ("Content-Type", "application/octet-stream".to_owned()),
                ("Content-Range", format!("{}-{}", place.offset, end - 1)),
            ],
            payload: Payload::Stream(&mut counted, length),
            ..Request::new("PATCH", &place.location)
        };
        let response = self.session.send(request).map_err(Failure::Broken)?;
        match response.status {
            202 => {
                let next = location(&response, &place.location)?;
                let offset = response.header("range").and_then(range_end).unwrap_or(end);
                if offset <= place.offset {
                    return Err(Failure::Broken(invalid_answer(
                        "the registry takes what is sent, and has none of it",
                    )));
                }
                self.place(next, offset).map(Step::On)
            }
            401 => {
                // A token lives for minutes, an upload for hours.
                self.session.authorize(response).map_err(Failure::Final)?;
                Err(Failure::Broken(invalid_answer("the registry wants to know again who this is")))
            }
            404 | 416 => Err(Failure::Broken(self.session.refusal("continue the upload", response))),
            _ => Err(self.session.failure("send a part", response)),
        }
    }

    fn commit(&mut self, place: &Place) -> std::result::Result<Step, Failure> {
        let url = place.location.clone().with_query("digest", &self.blob.digest.to_string());
        let mut call = Call::new("PUT", url);
        call.headers.push(("Content-Type", "application/octet-stream".to_owned()));
        call.patience = COMMIT_PATIENCE;
        let response = self.session.call(&call).map_err(Failure::Broken)?;
        match response.status {
            200 | 201 | 204 => Ok(Step::Done),
            404 => Err(Failure::Broken(self.session.refusal("complete the upload", response))),
            _ => Err(self.session.failure("complete the upload", response)),
        }
    }

    /// After a failure: whether the blob is there after all, else how far the registry has come.
    fn asked(&mut self, place: &Url) -> std::result::Result<Step, Failure> {
        if self.session.has_blob(self.blob).map_err(Failure::Broken)? {
            return Ok(Step::Done);
        }
        let response = self.session.call(&Call::new("GET", place.clone())).map_err(Failure::Broken)?;
        if response.status >= 500 {
            return Err(self.session.failure("ask how far the upload is", response));
        }
        let offset = response.header("range").and_then(range_end);
        match offset.filter(|_| matches!(response.status, 200 | 202 | 204)) {
            None => Ok(Step::Lost),
            Some(offset) => {
                let next = match response.header("location") {
                    Some(_) => location(&response, place)?,
                    None => place.clone(),
                };
                self.place(next, offset).map(Step::On)
            }
        }
    }

    fn place(&self, location: Url, offset: u64) -> std::result::Result<Place, Failure> {
        if offset > self.blob.size {
            let message = format!("the registry says that it has {offset} bytes of {}", self.blob.size);
            return Err(Failure::Final(invalid_answer(message)));
        }
        Ok(Place { location, offset })
    }
}

fn location(response: &Response, from: &Url) -> std::result::Result<Url, Failure> {
    let header = response.header("location");
    let header = header
        .ok_or_else(|| Failure::Final(invalid_answer("the registry does not say where to upload to")))?;
    from.join(header).map_err(Failure::Final)
}

/// How many bytes `0-LAST` are. Registries say `0-0` of nothing.
fn range_end(header: &str) -> Option<u64> {
    let last = header.trim_start_matches("bytes=").strip_prefix("0-")?.parse::<u64>().ok()?;
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
}

fn failed_source(error: io::Error) -> crate::Error {
    crate::Error::new(crate::ErrorKind::System, "read what is to be uploaded").with_source(error)
}

/// Tells of what is read for the first time.
struct Counted<'a> {
    source: &'a mut dyn Read,
    at: u64,
    sent: &'a mut u64,
    progress: &'a mut dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(to)?;
        self.at += read as u64;
        if self.at > *self.sent {
            self.progress.advance(self.at - *self.sent);
            *self.sent = self.at;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::range_end;

    #[test]
    fn how_far_an_upload_has_come() {
        for (header, offset) in [
            ("0-0", Some(0)),
            ("0-1023", Some(1024)),
            ("bytes=0-9", Some(10)),
            ("5-9", None),
            ("", None),
            ("0-x", None),
            ("0-18446744073709551615", Some(u64::MAX)),
        ] {
            assert_eq!(range_end(header), offset, "{header}");
        }
    }
}
