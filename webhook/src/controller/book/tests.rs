use serde_json::json;

use super::*;

fn name(name: &str) -> ObjectName {
    ObjectName::new("web", name)
}

fn wanted(pod: &str, content: &str) -> Wanted {
    Wanted {
        pod: name(pod),
        uid: "u".to_owned(),
        node: "n".to_owned(),
        spec: json!({}),
        content: content.to_owned(),
    }
}

/// Pod `p` should have `p-a` with this content.
fn has(content: &str) -> News {
    News::Pod(name("p"), vec![("p-a".to_owned(), wanted("p", content))])
}

fn ours(content: &str) -> There {
    There {
        is_ours: true,
        content: content.to_owned(),
        uid: "o".to_owned(),
        resource_version: "7".to_owned(),
        ..There::default()
    }
}

/// A book to which `there` was listed.
fn book(there: &[(&str, There)], news: &[News]) -> Book {
    let mut book = Book::default();
    for one in news {
        book.take(one.clone());
    }
    book.restart();
    for (object, there) in there {
        book.see(name(object), there.clone());
    }
    assert_eq!(book.next(Instant::now()), None, "not everything is known yet");
    book.complete();
    book
}

fn step(book: &mut Book) -> Option<(String, &'static str)> {
    let (name, step) = book.next(Instant::now())?;
    let step = match step {
        Step::Create(_) => "create",
        Step::Replace(_, version) => {
            assert_eq!(version, "7");
            "replace"
        }
        Step::Delete(uid) => {
            assert_eq!(uid, "o");
            "delete"
        }
    };
    Some((name.name, step))
}

/// Name, what is there, what is said about the pods, what is done.
type Case<'a> = (&'a str, Vec<(&'a str, There)>, Vec<News>, Option<&'a str>);

#[tokio::test(start_paused = true)]
async fn only_what_differs_is_written_and_only_ours() {
    let foreign = There { is_ours: false, ..ours("1") };
    let cases: [Case<'_>; 8] = [
        ("missing", vec![], vec![has("1")], Some("create")),
        ("as it should be", vec![("p-a", ours("1"))], vec![has("1"), News::Complete], None),
        ("another content", vec![("p-a", ours("0"))], vec![has("1")], Some("replace")),
        ("left over", vec![("p-a", ours("1"))], vec![News::Complete], Some("delete")),
        ("left over, pods not known yet", vec![("p-a", ours("1"))], vec![], None),
        ("somebody's of that name", vec![("p-a", foreign.clone())], vec![has("1")], None),
        ("somebody's", vec![("x", foreign)], vec![News::Complete], None),
        (
            "the pod is gone",
            vec![("p-a", ours("1"))],
            vec![has("1"), News::Complete, News::Gone(name("p"))],
            Some("delete"),
        ),
    ];
    for (case, there, news, expected) in cases {
        let mut book = book(&there, &news);
        let expected = expected.map(|step| ("p-a".to_owned(), step));
        assert_eq!(step(&mut book), expected, "{case}");
        assert_eq!(step(&mut book), None, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_final_although_the_watch_lags_behind() {
    let mut book = book(&[], &[has("1"), News::Complete]);
    assert_eq!(step(&mut book), Some(("p-a".to_owned(), "create")));
    book.take(has("2"));
    assert_eq!(step(&mut book), None, "one at a time");
    book.finish(name("p-a"), Outcome::Written(ours("1")), Instant::now());
    assert_eq!(step(&mut book), Some(("p-a".to_owned(), "replace")));
    book.finish(name("p-a"), Outcome::Written(ours("2")), Instant::now());
    assert_eq!(step(&mut book), None);
    assert_eq!(book.wake(), None);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_later_and_later() {
    let mut book = book(&[], &[has("1"), News::Complete]);
    for seconds in [1, 2, 4, 8] {
        assert!(step(&mut book).is_some());
        book.finish(name("p-a"), Outcome::Failed, Instant::now());
        assert_eq!(step(&mut book), None);
        assert_eq!(book.wake(), Some(Instant::now() + Duration::from_secs(seconds)));
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_mic_is_at_work() {
    let mics = There { is_mics: true, ..There::default() };
    let mut book = book(&[("x", mics), ("left", ours("1"))], &[has("1"), News::Complete]);
    assert_eq!(step(&mut book), None);
    book.gone(&name("x"));
    let mut steps = vec![step(&mut book), step(&mut book), step(&mut book)];
    steps.sort();
    let expected = [("left", "delete"), ("p-a", "create")].map(|(a, b)| Some((a.to_owned(), b)));
    assert_eq!(steps, [vec![None], expected.to_vec()].concat());
}

#[tokio::test(start_paused = true)]
async fn of_two_pods_whose_names_make_one_the_first_has_it() {
    let other = News::Pod(name("q"), vec![("p-a".to_owned(), wanted("q", "9"))]);
    let mut book = book(&[], &[has("1"), other, News::Complete]);
    let (_, step) = book.next(Instant::now()).unwrap();
    assert_eq!(step, Step::Create(wanted("p", "1")));
}
