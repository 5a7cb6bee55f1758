//! The test twin of the switch: what only one build has is tested in its own folder.

cfg_if::cfg_if! {
    if #[cfg(feature = "cloud")] {
        #[path = "cloud.rs"]
        mod imp;
    } else {
        #[path = "oss/mod.rs"]
        mod imp;
    }
}
