//! What the log tells of tokens.

use std::io;

use tracing::{Dispatch, Level, subscriber};

use super::*;

/// Takes what is logged in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The messages of the lines so far, without what stands behind each.
    fn messages(&self) -> Vec<String> {
        let messages = ["token fetched", "token first given", "tokens given"];
        let text = self.text();
        let found = text.lines().filter_map(|line| messages.iter().find(|one| line.contains(*one)));
        found.map(|one| (*one).to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_has_a_line_when_it_is_fetched_and_one_when_it_is_first_given_since() {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(false);
    let lines = lines.with_writer(move || writer.clone()).finish();
    // A lone subscriber would not be asked about events that another test's thread meets first
    // (tracing-core, `callsite::dispatchers::Rebuilder::JustOne`).
    let _second = Dispatch::new(tracing_subscriber::fmt().with_max_level(Level::TRACE).finish());
    let _logged = subscriber::set_default(lines);

    let source = Scripted::new().then("r", 0, Ok(1000)).then("r", 0, Ok(1000));
    let cache = source.cache();
    let (fetched, given) = ("token fetched", "token first given");
    kept_fresh(&cache, async {
        for _ in 0..3 {
            assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
        }
        assert_eq!(log.messages(), [fetched]);
        sleep(seconds(751)).await;
        assert_eq!(log.messages(), [fetched, fetched]);
        for _ in 0..3 {
            assert_eq!(ask(&cache, "r").await, Ok("web/db#2".to_owned()));
        }
        assert_eq!(log.messages(), [fetched, fetched, given]);
    })
    .await;
    cache.summary().tell();
    assert_eq!(log.messages(), [fetched, fetched, given, "tokens given"]);
    let text = log.text();
    assert!(text.contains("times=6"), "{text}");
    assert!(text.contains("identity=\"web/db\"") && text.contains("resource=\"r\""), "{text}");
    assert!(!text.contains("web/db#"), "a token is in the log: {text}");
}
