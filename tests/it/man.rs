//! The manual pages that a package installs.

use std::collections::BTreeMap;

#[path = "../../examples/man.rs"]
#[expect(dead_code, reason = "what writes them is not called here")]
mod written;

/// A page that lags behind would tell people of flags that are gone, and nothing of those that came.
#[test]
fn manual_pages_are_those_of_the_definitions() {
    let wanted: BTreeMap<String, String> = written::pages()
        .expect("pages")
        .into_iter()
        .map(|(name, page)| (name, String::from_utf8(page).expect("text")))
        .collect();
    let kept: BTreeMap<String, String> = std::fs::read_dir(written::folder())
        .expect("the folder of this build's pages")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let name = entry.file_name().into_string().expect("a name");
            (name, std::fs::read_to_string(entry.path()).expect("a page"))
        })
        .collect();
    assert!(wanted.len() >= 7 && wanted["kahn-serve.1"].contains("KAHN_BIND"), "{:?}", wanted.keys());
    let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
    let mend = "write them again: cargo run --example man, with the flags of this build";
    assert_eq!(names(&kept), names(&wanted), "{mend}");
    for (name, page) in wanted {
        assert!(kept[&name] == page, "man/{}/{name} is not what the definitions give; {mend}", kahn::backend::MODE);
    }
}
