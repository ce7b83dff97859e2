//! The harness of the end-to-end tests: hosts, bundles, deadlines.
