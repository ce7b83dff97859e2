// SPDX-License-Identifier: Apache-2.0
//! Module sys.

pub mod beneath;
pub mod clock;
pub mod metadata;
