use super::*;

fn fetched(outcome: Outcome, reason: &'static str, took: u64) -> Fetched {
    Fetched { outcome, reason, took: Duration::from_millis(took), is_refresh: false }
}

/// The series of `fetches`, without what is said of each metric.
fn series(fetches: &Fetches, lives: &[(&str, Duration)]) -> Vec<String> {
    let mut text = String::new();
    fetches.write(&mut text, lives.iter().copied());
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn requests_are_told_by_route_outcome_and_reason() {
    let mut requests = Requests::default();
    for _ in 0..2 {
        requests.count(Route::Imds, Outcome::of(StatusCode::OK), "");
    }
    requests.count(Route::Other, Outcome::of(StatusCode::NOT_FOUND), "NotHere");
    requests.count(Route::Imds, Outcome::of(StatusCode::TOO_MANY_REQUESTS), "Throttled");
    requests.count(Route::CloudShell, Outcome::of(StatusCode::SERVICE_UNAVAILABLE), "Deadline");
    let mut text = String::new();
    requests.write(&mut text);
    let expected = r#"# HELP imdslet_sidecar_build_info The program; always 1.
# TYPE imdslet_sidecar_build_info gauge
imdslet_sidecar_build_info{version="VERSION"} 1
# HELP imdslet_sidecar_requests_total Requests that were answered.
# TYPE imdslet_sidecar_requests_total counter
imdslet_sidecar_requests_total{route="imds",outcome="ok",reason=""} 2
imdslet_sidecar_requests_total{route="imds",outcome="failed",reason="Throttled"} 1
imdslet_sidecar_requests_total{route="cloud-shell",outcome="failed",reason="Deadline"} 1
imdslet_sidecar_requests_total{route="other",outcome="refused",reason="NotHere"} 1
"#;
    assert_eq!(text, expected.replace("VERSION", env!("CARGO_PKG_VERSION")));
}

#[test]
fn fetches_are_told_by_identity() {
    let mut fetches = Fetches::default();
    fetches.count("web/db", &fetched(Outcome::Ok, "", 100));
    fetches.count("web/db", &fetched(Outcome::Ok, "", 2_400));
    let failed = fetched(Outcome::Failed, "Deadline", 9_000);
    fetches.count("web/db", &Fetched { is_refresh: true, ..failed });
    let lives = [("web/db", 3_600_900), ("web/db", 1_800_900), ("ops/mail", 60_000)];
    let lives = lives.map(|(name, millis)| (name, Duration::from_millis(millis)));
    let mut text = String::new();
    fetches.write(&mut text, lives.into_iter());
    let expected = r#"# HELP imdslet_sidecar_fetches_total Fetches of tokens that ended.
# TYPE imdslet_sidecar_fetches_total counter
imdslet_sidecar_fetches_total{identity="web/db",outcome="ok",reason=""} 2
imdslet_sidecar_fetches_total{identity="web/db",outcome="failed",reason="Deadline"} 1
# HELP imdslet_sidecar_fetch_duration_seconds How long fetches of tokens took.
# TYPE imdslet_sidecar_fetch_duration_seconds histogram
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="0.1"} 1
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="0.25"} 1
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="0.5"} 1
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="1"} 1
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="2.5"} 2
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="5"} 2
imdslet_sidecar_fetch_duration_seconds_bucket{identity="web/db",le="+Inf"} 3
imdslet_sidecar_fetch_duration_seconds_sum{identity="web/db"} 11.500000
imdslet_sidecar_fetch_duration_seconds_count{identity="web/db"} 3
# HELP imdslet_sidecar_refresh_failures_total Fetches that failed or were refused where there had been a token before.
# TYPE imdslet_sidecar_refresh_failures_total counter
imdslet_sidecar_refresh_failures_total{identity="web/db"} 1
# HELP imdslet_sidecar_token_expiry_seconds Until the first of the tokens that are held expires.
# TYPE imdslet_sidecar_token_expiry_seconds gauge
imdslet_sidecar_token_expiry_seconds{identity="ops/mail"} 60
imdslet_sidecar_token_expiry_seconds{identity="web/db"} 1800
"#;
    assert_eq!(text, expected);
}

#[test]
fn the_names_of_identities_are_escaped_and_cut() {
    let mut fetches = Fetches::default();
    fetches.count("a\"b\\c\nd", &fetched(Outcome::Ok, "", 0));
    // The last character has two bytes, the second of which is the 129th.
    let long = format!("{}ä-and-more", "x".repeat(127));
    fetches.count(&long, &fetched(Outcome::Ok, "", 0));
    let lines = series(&fetches, &[(&long, Duration::from_secs(7))]);
    let first = r#"imdslet_sidecar_fetches_total{identity="a\"b\\c\nd",outcome="ok",reason=""} 1"#;
    assert_eq!(lines[0], first);
    let cut = "x".repeat(127);
    let last = format!("imdslet_sidecar_token_expiry_seconds{{identity=\"{cut}\"}} 7");
    assert_eq!(lines.last(), Some(&last));
}

#[test]
fn after_so_many_identities_all_others_are_one() {
    let mut fetches = Fetches::default();
    for _ in 0..2 {
        for number in 0..40 {
            fetches.count(&format!("web/{number}"), &fetched(Outcome::Ok, "", 0));
        }
    }
    let held = [("web/0", 9), ("web/38", 5), ("web/39", 3)];
    let lines = series(&fetches, &held.map(|(name, secs)| (name, Duration::from_secs(secs))));
    let total = |line: &&String| line.starts_with("imdslet_sidecar_fetches_total");
    assert_eq!(lines.iter().filter(total).count(), IDENTITIES + 1);
    for expected in [
        r#"imdslet_sidecar_fetches_total{identity="web/31",outcome="ok",reason=""} 2"#,
        r#"imdslet_sidecar_fetches_total{identity="other",outcome="ok",reason=""} 16"#,
        r#"imdslet_sidecar_token_expiry_seconds{identity="web/0"} 9"#,
        r#"imdslet_sidecar_token_expiry_seconds{identity="other"} 3"#,
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected}");
    }
}
