//! Who is let in, and what is refused at boot.

use kahn::contract::{Refusal, Scope};

use super::*;

fn facts(method: &str, hosts: &[&str]) -> RequestFacts {
    RequestFacts {
        method: method.into(),
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        ..RequestFacts::default()
    }
}

#[tokio::test]
async fn the_host_must_be_this_machine() {
    let home = Home::new();
    let archive = home.archive();
    let served = Served::open(&["--archive", archive.to_str().unwrap(), "--allowed-host", "kahn.local"]).await.unwrap();
    let screen = |hosts: &[&str]| served.backend.access.screen(&facts("GET", hosts));
    for own in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:65535",
        "Kahn.Local:8080",
        "kahn.local",
    ] {
        assert_eq!(screen(&[own]), Ok(()), "{own}");
    }
    for foreign in [
        "evil.example",
        "evil.example:8080",
        "0.0.0.0:8080",
        "127.1",
        "127.0.0.2",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "localhost.",
        "localhost.evil.example",
        "localhost:",
        "localhost:80a",
        "localhost:65536",
        "localhost:8080:8080",
        "localhost@evil.example",
        "evil.example#localhost",
        "user@localhost",
        " localhost",
        "::1",
        "[::1",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "[::1]evil",
        "kahn.local.evil.example",
        ":8080",
    ] {
        assert_eq!(screen(&[foreign]), Err(Refusal::ForeignHost), "{foreign}");
    }
    for bad in [&[][..], &["localhost", "localhost"], &["localhost", "evil.example"], &[""]] {
        assert_eq!(screen(bad), Err(Refusal::BadHost), "{bad:?}");
    }
    for (target, wanted) in [
        ("localhost:8080", Ok(())),
        ("LOCALHOST:8080", Ok(())),
        ("evil.example", Err(Refusal::BadHost)),
        ("localhost", Err(Refusal::BadHost)),
    ] {
        let request = RequestFacts { target_authority: Some(target.into()), ..facts("GET", &["localhost:8080"]) };
        assert_eq!(served.backend.access.screen(&request), wanted, "{target}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out() {
    let home = Home::new();
    let served = home.open().await;
    let screen = |method: &str, host: &str, origins: &[&str], site: Option<&str>, is_websocket: bool| {
        served.backend.access.screen(&RequestFacts {
            origins: origins.iter().map(|origin| (*origin).into()).collect(),
            fetch_site: site.map(str::to_owned),
            is_websocket,
            ..facts(method, &[host])
        })
    };
    let here = "localhost:8080";
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
        assert_eq!(screen(method, here, &[], None, false), Ok(()));
        assert_eq!(screen(method, here, &["http://localhost:8080"], Some("same-origin"), false), Ok(()));
        assert_eq!(screen(method, here, &["http://LOCALHOST:8080"], Some("none"), false), Ok(()));
        for foreign in [
            "null",
            "",
            "http://evil.example",
            "http://localhost",
            "http://localhost:8081",
            "https://localhost:8080",
            "http://127.0.0.1:8080",
            "http://localhost:8080.evil.example",
            "http://localhost:8080/",
            "localhost:8080",
            "HTTP://localhost:8080",
        ] {
            assert_eq!(
                screen(method, here, &[foreign], None, false),
                Err(Refusal::ForeignOrigin),
                "{method} {foreign}"
            );
        }
        let two = ["http://localhost:8080", "http://localhost:8080"];
        assert_eq!(screen(method, here, &two, None, false), Err(Refusal::ForeignOrigin));
        for site in ["cross-site", "same-site", ""] {
            let wanted = if method == "GET" { Ok(()) } else { Err(Refusal::ForeignOrigin) };
            assert_eq!(screen(method, here, &[], Some(site), false), wanted, "{method} {site}");
        }
    }
    assert_eq!(screen("GET", here, &[], Some("cross-site"), true), Err(Refusal::ForeignOrigin));
    assert_eq!(screen("GET", here, &["http://evil.example"], None, true), Err(Refusal::ForeignOrigin));
    assert_eq!(screen("GET", here, &["http://localhost:8080"], Some("same-origin"), true), Ok(()));
    // Port 80 is left out by browsers, and may stand in either.
    assert_eq!(screen("POST", "localhost:80", &["http://localhost"], None, false), Ok(()));
    assert_eq!(screen("POST", "localhost", &["http://localhost:80"], None, false), Ok(()));
}

#[tokio::test]
async fn whoever_is_let_in_is_the_one_operator() {
    let served = Home::new().open().await;
    assert_eq!((served.who.user.as_str(), served.who.tenant.is_none()), ("localhost", true));
    for scope in [Scope::Read, Scope::Ingest, Scope::Admin] {
        assert_eq!(served.who.require(scope), Ok(()));
    }
}

#[test]
fn mistakes_in_options_are_told_together() {
    let typed = options(&["--archive", "a", "--fixture-dir", "b", "--allowed-host", "http://x,*,ok.local"]);
    let mistakes = typed.mistakes(&config("0.0.0.0:8080"));
    let starts = [
        "--archive (KAHN_ARCHIVE) is a and --fixture-dir",
        "--bind (KAHN_BIND) is 0.0.0.0:8080",
        "--allowed-host (KAHN_ALLOWED_HOST) is \"http://x\"",
        "--allowed-host (KAHN_ALLOWED_HOST) is \"*\"",
    ];
    assert_eq!(mistakes.len(), starts.len(), "{mistakes:?}");
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake}");
    }
    assert!(mistakes[1].contains("--allow-remote"));
    for bind in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(options(&[]).mistakes(&config(bind)), [""; 0], "{bind}");
    }
    for bind in ["0.0.0.0:1", "[::]:1", "192.168.1.2:1"] {
        assert_eq!(options(&[]).mistakes(&config(bind)).len(), 1, "{bind}");
        assert_eq!(options(&["--allow-remote"]).mistakes(&config(bind)), [""; 0], "{bind}");
    }
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_at_boot() {
    let home = Home::new();
    let refusal = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Served::open(&arguments).await.err().map(|error| error.to_string())
    };
    let path = |name: &str| home.archive().join(name).display().to_string();
    std::fs::create_dir_all(home.archive()).unwrap();

    let missing = refusal(vec!["--fixture-dir".into(), path("none")]).await.unwrap();
    assert!(missing.starts_with("--fixture-dir") && missing.contains("does not exist"), "{missing}");
    assert_eq!(refusal(vec!["--archive".into(), path("none")]).await, None);

    std::fs::write(path("file"), "").unwrap();
    for flag in ["--archive", "--fixture-dir"] {
        let file = refusal(vec![flag.into(), path("file")]).await.unwrap();
        assert!(file.starts_with(flag) && file.contains("is not a folder"), "{file}");
    }

    home.put_log("r1", text(&lines("r1", 1)));
    std::fs::create_dir(path("linked")).unwrap();
    std::os::unix::fs::symlink(home.archive().join("runs"), home.archive().join("linked/runs")).unwrap();
    let linked = refusal(vec!["--archive".into(), path("linked")]).await.unwrap();
    assert!(linked.contains("links in an archive are not followed"), "{linked}");
}
