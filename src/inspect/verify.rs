// SPDX-License-Identifier: Apache-2.0
//! Whether an archive is whole: every digest, the order and the limits, as a restore checks them, and then whether CRIU's
//! images in it are all there and can be read. Of another engine's archive, which has no digests, the latter only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::header::Header;
use super::images::Images;
use super::processes;
use super::report::Environment;
use super::{bases_of, from_archive};
use crate::archive::{Archive, Bases, Contents, Limits, PackedStream, Progress};
use crate::criu::image::{Found, ImageSet, Parent, incomplete};
use crate::{Context, Error, ErrorKind, Result};

/// What was found of an archive.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// Version of this form: 1.
    pub schema: u32,
    /// What was read.
    pub path: String,
    /// The engine that wrote it, as it says.
    pub engine: Option<String>,
    /// Whether every member was compared with its digest.
    pub digests: bool,
    /// Who has signed it, if the caller has asked for that and it is so.
    pub signer: Option<String>,
    /// Members.
    pub members: u64,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Processes in it.
    pub processes: usize,
    /// What is wrong with the images; nothing if they are complete.
    pub problems: Vec<String>,
}

impl Verification {
    /// The same in a line, for people.
    pub fn text(&self) -> String {
        let digests = if self.digests {
            "every digest agrees".to_owned()
        } else {
            let engine = self.engine.as_deref().unwrap_or("another engine");
            format!("read to its end: {engine} writes no digests to compare")
        };
        let signed = self.signer.as_ref().map_or_else(String::new, |signer| format!("signed by {signer}; "));
        let (members, bytes, processes) = (self.members, self.bytes, self.processes);
        format!(
            "{signed}{digests}; {members} members of {bytes} bytes; the images of {processes} processes are complete"
        )
    }

    /// # Errors
    /// `InvalidArchive` if something is wrong with the images.
    pub fn into_result(self) -> Result<Self> {
        let Some(first) = self.problems.first() else { return Ok(self) };
        let more = match self.problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let message = format!("the images in {} are not complete: {first}{more}", self.path);
        Err(Error::new(ErrorKind::InvalidArchive, message))
    }
}

/// Reads all of an archive and compares it with what it says of itself. Archives that it needs are looked for in `bases`, or beside
/// it if that is empty, and all that it needs of them is read, too.
///
/// # Errors
/// `InvalidArchive`, naming the member, if it is truncated, damaged or no archive; else when it cannot be read. What is
/// wrong with the images is in the answer.
pub fn verify(path: &Path, bases: &[PathBuf], progress: &mut dyn Progress) -> Result<Verification> {
    let reading = || format!("verify {}", path.display());
    let mut file = File::open(path).context(reading)?;
    let mut images = Images::new(Environment::Hidden);
    let bases = bases_of(path, bases);
    let contents = from_archive(&file, path, &bases, &mut images).context(reading)?;
    let header = Header::of(&images);
    // Without a manifest it is another engine's.
    let digests = header.archive_schema.is_some();
    let mut members = contents.files.len() as u64;
    if digests {
        file.seek(SeekFrom::Start(0)).context(reading)?;
        members = whole(&file, bases, progress).context(reading)?;
    }
    let processes = processes::read(&images, Environment::Hidden);
    complete(&images, &contents).context(reading)?;
    Ok(Verification {
        schema: 1,
        path: path.to_string_lossy().into_owned(),
        engine: header.engine,
        digests,
        signer: None,
        members,
        bytes: contents.bytes,
        processes: processes.len(),
        problems: images.problems(),
    })
}

/// Compares all of an archive with its index; a packed one as it is, and what is made of it. Returns the number of members.
fn whole(mut file: &File, bases: Bases, progress: &mut dyn Progress) -> Result<u64> {
    let limits = Limits::default();
    if let Some(mut packed) = PackedStream::open(file, bases)? {
        packed.require_bases()?;
        packed.verify(progress)?;
        return Ok(Archive::open(packed)?.verify(&limits, progress)?.members);
    }
    file.rewind().context(|| "go back to its beginning")?;
    Ok(Archive::open(file)?.verify(&limits, progress)?.members)
}

/// The images in an archive, as far as they are kept.
struct Packed<'a> {
    images: &'a Images,
    sizes: BTreeMap<&'a str, u64>,
}

impl ImageSet for Packed<'_> {
    fn image(&self, name: &str) -> Result<Found<'_>> {
        Ok(match self.images.get(name) {
            Some(bytes) => Found::Bytes(Box::new(bytes)),
            None if self.sizes.contains_key(name) => Found::Unread,
            None => Found::Missing,
        })
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.sizes.get(name).copied())
    }

    fn parent(&self) -> Result<Parent> {
        // Podman's are in an archive of their own.
        Ok(Parent::Elsewhere)
    }
}

/// Tells what a restore would miss.
fn complete(images: &Images, contents: &Contents) -> Result<()> {
    let named = contents.files.iter();
    let sizes = named.filter_map(|(name, size)| Some((name.strip_prefix("checkpoint/")?, *size))).collect();
    incomplete(&Packed { images, sizes })?.into_iter().for_each(|problem| images.tell(problem));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::{good, tar_of};

    fn verified(images: &[(&str, Vec<u8>)]) -> Verification {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), tar_of(images)).expect("write");
        verify(file.path(), &[], &mut ()).unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    /// With what [`good`] leaves out since `inspect` does without.
    fn whole() -> Vec<(&'static str, Vec<u8>)> {
        let inventory = [&0x5831_3116_u32.to_le_bytes()[..], &[2, 0, 0, 0, 8, 2]].concat();
        let fs = [&0x5456_4319_u32.to_le_bytes()[..], &0x5140_3912_u32.to_le_bytes(), &[2, 0, 0, 0, 8, 9]]
            .concat();
        let mut images = good();
        let thread = images.iter().find(|(name, _)| *name == "core-1.img").expect("it is there").1.clone();
        images.extend([("inventory.img", inventory), ("fs-1.img", fs), ("core-2.img", thread)]);
        images
    }

    #[test]
    fn a_foreign_archive_is_read_and_its_images_are_complete() {
        let found = verified(&whole());
        assert_eq!((&found.problems[..], found.digests, found.processes), (&[][..], false, 2));
        let text = found.into_result().expect("complete").text();
        assert!(text.contains("no digests to compare; 12 members"), "{text}");
    }

    #[test]
    fn what_a_restore_would_miss_is_named() {
        for (missing, _) in whole() {
            // The zombie has nothing but its name.
            let images: Vec<_> = whole().into_iter().filter(|(name, _)| *name != missing).collect();
            let error = verified(&images).into_result().expect_err(missing);
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
            assert!(error.to_string().contains("missing"), "{missing}: {error}");
        }
        let mut images = whole();
        images
            .iter_mut()
            .filter(|(name, _)| *name == "pages-3.img")
            .for_each(|(_, bytes)| bytes.truncate(0x2fff));
        let error = verified(&images).into_result().expect_err("cut short");
        assert!(error.to_string().contains("pages-3.img: it is cut short"), "{error}");
    }
}
