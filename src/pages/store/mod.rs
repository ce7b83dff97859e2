// SPDX-License-Identifier: Apache-2.0
//! Memory that comes before its processes do: pages by the memory that they are of and their address, each as it was sent last.
//!
//! ```text
//! batches of pages ─▶ StoreWriter ─▶ pages   4 KiB after 4 KiB; a page that comes again takes its old place, zeros take none
//!                        └─ seal ──▶ index   which memory is which process's, and where in `pages` its runs begin
//!                                      └───▶ StoreReader ─▶ bytes · zeros · nothing
//! ```
//! A memory has a number of the sender's (a *space*), for it may be sent before it is known as whose process's CRIU will list it. What
//! a store has not is not zero: who asks for it must say what that means. Must not know who sends, nor what becomes of a page.

mod batch;
mod index;
mod reader;
mod runs;
mod writer;

pub use batch::{Batch, runs_of};
pub use reader::{StoreReader, is_complete};
pub use runs::Place;
pub(super) use runs::{Run, Runs};
pub use writer::StoreWriter;

/// The file of pages, in the directory of a store.
const PAGES: &str = "pages";
/// The file that tells what is where in it.
const INDEX: &str = "index";

/// Runs of pages in one store: what a hostile sender could make of a few bytes each must not fill memory.
const RUNS: usize = 1 << 23;
/// Spaces, and processes, in one store.
const SPACES: usize = 1 << 16;
