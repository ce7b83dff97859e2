// SPDX-License-Identifier: Apache-2.0
//! Images that are missing, cut off, damaged, or of something else.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "image-of-something-else",
        seen: &["Head magic doesn't match for {image}", "Magic doesn't match for {image}"],
        cause: "{image} is no image of criu's, or a damaged one",
        remedy: "copy {images} again from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "image-missing",
        seen: &[
            "Unexpected EOF on (empty-image)",
            "mnt: No root found for tree",
            "No IDS for root task",
            "Core info data missed",
            "Core IDS data missed",
        ],
        cause: "an image is missing",
        remedy: "copy {images} again, as a whole, from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "image-cut-off",
        seen: &["Read {} bytes while {} expected from {image}: ", "Unexpected EOF on {image}"],
        cause: "the image {image} is cut off",
        remedy: "copy {images} again, as a whole, from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "images-cut-off",
        seen: &[
            "Img trimmed",
            "The image file was truncated",
            "Reached EOF unexpectedly while reading page from image",
        ],
        cause: "an image is cut off",
        remedy: "copy {images} again, as a whole, from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "image-damaged",
        seen: &["Failed unpacking object {} from {image}", "Wrong object requested {} on {image}"],
        cause: "the image {image} is damaged",
        remedy: "copy {images} again from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "images-damaged",
        seen: &[
            "mage corruption",
            "Unknown image format",
            "Corrupted ghost image",
            "tty: Corrupted ",
            "Image corrupted on pid",
        ],
        cause: "an image is damaged",
        remedy: "copy {images} again from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "pages-missing",
        seen: &[
            "Can't read pages data",
            "Can't read mapping page",
            "page-xfer: Failed to open page read for",
        ],
        cause: "the pages of {who} are missing or cut off",
        remedy: "copy {images} again, as a whole, from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "image-not-there",
        seen: &["Unable to open {image}.img: No such file", "Can't open {image}.img: No such file"],
        cause: "the image {image}.img is missing",
        remedy: "copy {images} again, as a whole, from where they were made",
        ..Rule::RESTORE
    },
    Rule {
        name: "images-directory",
        seen: &["Can't open images directory: ", "Couldn't open image dir {path}", "Can't open dir {path}: "],
        cause: "criu cannot open the directory of the images",
        remedy: "it must be there, and searchable for root: --image-path",
        ..Rule::ANY
    },
];
