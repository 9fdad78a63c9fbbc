use std::collections::HashMap;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::super::period::{Calendar, Every};
use super::*;

fn template(text: &str) -> Template {
    Template::parse(text, None).unwrap()
}

fn refusal(text: &str) -> String {
    Template::parse(text, None).unwrap_err()
}

/// The period of length `every` at `time`, in UTC.
fn period(every: Every, time: &str) -> Period {
    Calendar::new(TimeZone::UTC, Some(every)).period_at(time.parse().unwrap())
}

fn day() -> Period {
    period(Every::Days(1), "2026-11-23T12:34:56Z")
}

/// What a template renders for a host and a path.
fn check(text: &str, host: &str, path: &str, expected: &str) {
    let rendered = template(text).render(&Origin::new(host, path), &day());
    assert_eq!(rendered.to_string(), expected, "{text} {host} {path}");
}

#[test]
fn the_fixed_part_ends_before_the_first_placeholder_or_date() {
    for (text, fixed) in [
        ("/var/log/remote/{host}/{file}.%Y%m%d", "/var/log/remote"),
        ("/var/log/%Y/{host}", "/var/log"),
        ("/var/log/app-{host}/x", "/var/log"),
        ("/tmp/logfile", "/tmp"),
        ("/{host}", "/"),
        ("//var//./log/{host}", "/var/log"),
        ("/var/{{log}}/100%%/{host}", "/var/{log}/100%"),
    ] {
        assert_eq!(template(text).fixed(), Path::new(fixed), "{text}");
    }
}

#[test]
fn a_relative_path_begins_in_the_current_directory() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(template("logs/{host}").fixed(), here.join("logs"));
    assert_eq!(template("{host}").fixed(), here);
    assert_eq!(template("./logfile").fixed(), here);
}

#[test]
fn renders_values_and_dates() {
    check(
        "/r/{host}/{file}.%Y%m%d",
        "web1.example.net",
        "/var/log/app.log",
        "web1.example.net/app.log.20261123",
    );
    check("/r/{host}/{path}", "web1", "/var/log/app.log", "web1/var/log/app.log");
    check("/r/%Y/%m/%d/{host}-{file}.txt", "10.0.0.1", "/app", "2026/11/23/10.0.0.1-app.txt");
    check("/r/%F_%j/{host}", "w", "/app", "2026-11-23_327/w");
    check("/r/system.log.%y%m%d", "w", "/app", "system.log.261123");
    check("/r/{{x}}-{host}-100%%", "w", "/app", "{x}-w-100%");
}

#[test]
fn names_carry_the_start_of_the_period() {
    let hour = period(Every::Seconds(3_600), "2026-11-23T12:34:56Z");
    let rendered = template("/r/{file}.%Y%m%dT%H%M%S").render(&Origin::new("h", "/app"), &hour);
    assert_eq!(rendered.to_string(), "app.20261123T120000");
}

#[test]
fn an_hour_shown_twice_has_two_names() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let calendar = Calendar::new(zone, Some(Every::Seconds(3_600)));
    let template = template("/r/%Y%m%d/{file}.%H.log");
    let names = ["2026-10-25T00:30Z", "2026-10-25T01:30Z"].map(|time| {
        let period = calendar.period_at(time.parse().unwrap());
        template.render(&Origin::new("h", "/app"), &period).to_string()
    });
    assert_eq!(names, ["20261025/app.02.log", "20261025/app.02+0100.log"]);
}

#[test]
fn a_date_suffix_makes_the_original_names() {
    let template = Template::parse("/tmp/logfile", Some("-%Y%m%d%H%M")).unwrap();
    assert_eq!(template.render(&Origin::new("h", "/l"), &day()).to_string(), "logfile-202611230000");
    assert_eq!(template.finest(), Some(Field::Minute));
    assert!(template.is_shared());
    for suffix in ["-old", "/%Y", "%Y{host}"] {
        let refused = Template::parse("/tmp/x", Some(suffix)).unwrap_err();
        assert!(refused.contains('`'), "{refused}");
    }
}

#[test]
fn knows_what_it_is_made_of() {
    assert_eq!(template("/r/{host}").finest(), None);
    assert_eq!(template("/r/%Y/%m/{host}").finest(), Some(Field::Month));
    assert_eq!(template("/r/%Y-%j").finest(), Some(Field::Day));
    assert_eq!(template("/r/%F/%R").finest(), Some(Field::Minute));
    assert!(template("/r/%Y").is_shared() && !template("/r/%Y/{path}").is_shared());
}

#[test]
fn refusals_name_the_remedy() {
    for (text, part) in [
        ("", "empty"),
        ("/", "add the name of the file"),
        ("/var/log/", "add the name of the file"),
        ("/r/{hots}", "did you mean `{host}`?"),
        ("/r/{pid}", "`{host}`, `{file}` and `{path}`"),
        ("/r/{host", "never closed"),
        ("/r/{a/b}", "never closed"),
        ("/r/host}", "did not open"),
        ("/r/%Y%b%d", "write `%m`"),
        ("/r/%D", "write `%F`"),
        ("/r/%s", "write `%FT%T`"),
        ("/r/%-d", "`%-` is no field of a date"),
        ("/r/%é", "`%é` is no field of a date"),
        ("/r/x%", "a `%` at the end"),
        ("/r/{host}.%H", "add %Y %m %d"),
        ("/r/%Y%d", "add %m"),
        ("/r/{host}/../x", "go up again"),
        ("/r/{host}.gz", "`.gz`"),
        ("/r/{host}z", "`.gz`"),
        ("/r/{host}/.fshipper", "the sink's own"),
        ("/r/.{host}", "the sink's own"),
        ("/r/x\0", "NUL"),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(part), "{text:?}: {refused}");
    }
    assert!(refusal(&format!("/r/{}-{{host}}", "x".repeat(170))).contains("too long"));
    assert!(refusal(&format!("/r/{{host}}/{}", "x".repeat(201))).contains("too long"));
}

#[test]
fn hostile_values_stay_below_the_fixed_part() {
    check("/r/{host}/{file}", "../../etc", "/a/..", "%2E.%2F..%2Fetc/%2E%2E");
    check("/r/{host}/{file}", "", "/a/", "%empty/%empty");
    check("/r/{path}", "h", "/../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd");
    check("/r/{path}", "h", "//a//b/", "%empty/a/%empty/b/%empty");
    check("/r/{path}", "h", "/", "%empty");
    check("/r/{path}", "h", "stdin", "%relative/stdin");
    check("/r/{path}", "h", "", "%relative/%empty");
}

#[test]
fn deep_paths_are_cut_and_stay_apart() {
    let render =
        |path: &str| template("/r/{path}.%Y%m%d").render(&Origin::new("h", path), &day()).to_string();
    let deep = "/d".repeat(2_000);
    let (one, other) = (render(&format!("{deep}/a")), render(&format!("{deep}/b")));
    assert_ne!(one, other);
    assert_eq!(one.split('/').count(), MAX_FOLDERS);
    assert!(one.contains("/%-") && one.ends_with(".20261123"), "{one}");
    let wide = format!("/{}", "x".repeat(190)).repeat(20);
    assert!(render(&wide).len() <= MAX_PATH_BYTES + MAX_COMPONENT_BYTES);
}

#[test]
fn ordinary_endings_are_only_escaped_where_they_could_be_ours() {
    check("/r/{host}/{file}", "h", "/app.log.1", "h/app.log%2E1");
    check("/r/{host}/{file}", "10.0.0.1", "/app.log", "10.0.0.1/app.log");
    check("/r/{file}/{host}", "10.0.0.1", "/app.log.1", "app.log.1/10.0.0.1");
    check("/r/{file}.%Y%m%d", "h", "/app.log.1", "app.log.1.20261123");
    check("/r/{file}.log", "h", "/app.1", "app.1.log");
}

#[test]
fn collision_suffixes_differ_from_attempt_to_attempt() {
    let origin = Origin::new("h", "foobar");
    assert_eq!(collision_suffix(&origin, 0), "~bf9cf968");
    assert_eq!(collision_suffix(&Origin::new("i", "foobar"), 0), collision_suffix(&origin, 0));
    assert_ne!(collision_suffix(&Origin::new("i", "foobar"), 1), collision_suffix(&origin, 1));
    assert_ne!(collision_suffix(&origin, 2), collision_suffix(&origin, 1));
}

/// Every value of up to four of these fragments: all that could imitate a suffix.
fn imitations() -> Vec<String> {
    let fragments = ["a", ".", "1", "2", "gz", "g", "T1"];
    let mut values = vec![String::new()];
    let mut longest = values.clone();
    for _ in 0..4 {
        longest =
            longest.iter().flat_map(|value| fragments.map(|fragment| format!("{value}{fragment}"))).collect();
        values.extend_from_slice(&longest);
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// No two of all the names that come from all values, in several periods, with all suffixes, are the same.
fn check_own_names(text: &str, times: &[&str]) {
    let template = template(text);
    let every = template.finest().map(Every::of);
    let calendar = Calendar::new(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(), every);
    let mut suffixes = vec![""];
    suffixes.extend([
        ".1",
        ".2",
        ".11",
        ".12",
        ".gz",
        ".1.gz",
        ".12.gz",
        "~00000001",
        "~00000001.1",
        "~00000001.gz",
    ]);
    // A time of rotation is only appended where there is no other date.
    if every.is_none() {
        // Shorter than they are, so that values of a few fragments can imitate them.
        suffixes.extend([".1T1", ".12T1", ".1T1.1", ".1T1.gz", ".1T1.2.gz", "~00000001.1T1"]);
    }
    let mut seen: HashMap<String, (String, &str)> = HashMap::new();
    for value in imitations() {
        let origin = Origin::new("h", format!("/{value}"));
        for time in times {
            let rendered = template.render(&origin, &calendar.period_at(time.parse().unwrap()));
            for suffix in &suffixes {
                let name = rendered.with_suffix(suffix);
                let origin = (rendered.to_string(), *suffix);
                let other = seen.insert(name.to_string(), origin.clone());
                assert!(other.is_none(), "{text}: {origin:?} and {other:?} are both `{name}`");
            }
        }
    }
}

#[test]
fn no_name_is_also_the_name_of_something_else() {
    // In the third of these the clock shows the hour for the second time.
    let hours = [
        "2026-10-24T23:30Z",
        "2026-10-25T00:30Z",
        "2026-10-25T01:30Z",
        "2026-11-23T10:30Z",
        "2026-11-23T11:30Z",
    ];
    let days = ["2026-11-02T12:00Z", "2026-11-11T12:00Z", "2026-11-12T12:00Z"];
    for text in [
        "/r/{file}",
        "/r/{file}1",
        "/r/{file}.1",
        "/r/{file}.log",
        "/r/{file}.1.2",
        "/r/a{file}a",
        "/r/{path}",
    ] {
        check_own_names(text, &hours[..1]);
    }
    for text in ["/r/%Y%m%d/{file}.%H", "/r/%Y%m%d/{file}-%H", "/r/%Y%m%d.%H/{file}", "/r/%Y%m%d.%H/{file}.1"]
    {
        check_own_names(text, &hours);
    }
    for text in ["/r/%Y/{file}.%m.%d", "/r/{file}.%Y%m%d", "/r/%Y%m/{file}-%d.log", "/r/{file}.%Y.%m.%d"] {
        check_own_names(text, &days);
    }
}

/// Text that means something to templates and paths.
fn telling_text() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&[u8]> = vec![
        b"/",
        b"//",
        b".",
        b"..",
        b"%",
        b"%empty",
        b"%relative",
        b"%-",
        b"a",
        b"b",
        b"~",
        b".1",
        b".gz",
        b"\xff",
        b"\0",
        b" ",
    ];
    prop::collection::vec(prop::sample::select(fragments), 0..50).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn different_logs_go_to_different_files(
        logs in prop::collection::hash_set((telling_text(), telling_text()), 30),
    ) {
        for text in ["/r/{host}/{path}", "/r/{host}/{path}.%Y%m%d", "/r/%Y/%m/{path}/%d/{host}"] {
            let template = template(text);
            let mut seen = HashMap::new();
            for (host, path) in &logs {
                let origin = Origin::new(host, path);
                let rendered = template.render(&origin, &day());
                let other = seen.insert(rendered.clone(), origin.clone());
                prop_assert!(other.is_none(), "{origin} and {other:?} render to {rendered}");
            }
        }
    }

    #[test]
    fn nothing_renders_to_a_name_that_is_reserved(host in telling_text(), path in telling_text()) {
        for text in ["/r/{host}", "/r/{host}/{file}", "/r/x{path}y/{host}", "/r/{host}{path}{file}.%Y%m%d"] {
            let rendered = template(text).render(&Origin::new(&host, &path), &day());
            for component in rendered.to_string().split('/') {
                prop_assert!(!component.is_empty() && component.len() <= MAX_COMPONENT_BYTES, "{component}");
                prop_assert!(!component.starts_with(OWN_PREFIX) && !matches!(component, "." | ".."), "{component}");
            }
            prop_assert!(rendered.as_bytes().len() < 4_096);
        }
    }
}
