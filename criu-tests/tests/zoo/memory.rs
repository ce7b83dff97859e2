// SPDX-License-Identifier: Apache-2.0
//! Mappings of all kinds.

exhibits![shared_anonymous];
