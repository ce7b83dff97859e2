// SPDX-License-Identifier: Apache-2.0
//! Regular files, directories and what stands for them.

exhibits![append_only, unlinked, offset_shared_by_fork];
