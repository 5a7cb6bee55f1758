//! Table of contents of the one test binary.

mod backend;
