//! The twin of the switch: how a build is started for a test, and the tests of what only that build has.
//!
//! Each twin gives `empty()`, `empty_with()` further arguments, and `with_samples()`: a [`crate::support::Kitchen`] over a fresh store.

cfg_if::cfg_if! {
    if #[cfg(feature = "cloud")] {
        #[path = "cloud/mod.rs"]
        mod imp;
    } else {
        #[path = "oss/mod.rs"]
        mod imp;
    }
}

pub(crate) use imp::{MODE, empty, empty_with, with_samples};
