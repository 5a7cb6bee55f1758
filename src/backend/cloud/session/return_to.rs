//! Where a person goes on after signing in: a path of this server, or its first page.

/// The longest that is kept; the rest of the cookie needs room too.
const LONGEST: usize = 1024;

/// The path, as it may stand in a Location. It was decoded once, by whoever read the query, and is not decoded again.
pub(super) fn return_to(wanted: Option<&str>) -> String {
    wanted.filter(|path| is_of_this_server(path)).unwrap_or("/").to_owned()
}

/// Browsers read `//host` and `/\host` as another server, and drop tabs and line ends before they look. Only what a
/// browser writes into its own address is let through: all else is percent-encoded there.
fn is_of_this_server(path: &str) -> bool {
    path.len() <= LONGEST
        && path.starts_with('/')
        && !path.starts_with("//")
        // Nobody is sent back into signing in or out, nor to an answer that is no page.
        && !["/auth/", "/api/", "/v1/", "/ws/"].iter().any(|place| path.starts_with(place))
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::return_to;

    #[test]
    fn a_path_of_this_server_is_kept_as_it_is() {
        for path in
            ["/", "/runs/r1", "/runs?phase=live&q=a%2Fb", "/runs/r1#events", "/agents/a%20b", "/runs?next=https://x/"]
        {
            assert_eq!(return_to(Some(path)), path);
        }
        assert_eq!(return_to(None), "/");
    }

    #[test]
    fn nobody_is_sent_to_another_server() {
        let long = format!("/{}", "a".repeat(1024));
        for path in [
            "",
            "runs",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "https://evil.example",
            "https:evil.example",
            "javascript:alert(1)",
            " //evil.example",
            "/ /evil.example",
            "/\r\nSet-Cookie: a=b",
            "/\u{0}",
            "/\u{7f}",
            "/ä",
            "/\u{2028}",
            "/auth/logout",
            "/auth/login?return_to=/",
            "/api/me",
            "/ws/live",
            &long,
        ] {
            assert_eq!(return_to(Some(path)), "/", "{path:?}");
        }
    }
}
