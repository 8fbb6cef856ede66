//! A wall clock that does not go as time goes by.

use super::*;

/// A cache whose wall clock can be set: by how many seconds it is ahead, or behind.
fn with_a_clock(source: &Scripted) -> (Cache, Arc<Mutex<i64>>) {
    let (start, ahead) = (source.start, Arc::new(Mutex::new(0_i64)));
    let set = Arc::clone(&ahead);
    let clock = move || {
        let ahead: i64 = *ahead.lock().unwrap();
        let time = now() + start.elapsed();
        let step = seconds(ahead.unsigned_abs());
        if ahead < 0 { time - step } else { time + step }
    };
    (Cache::new(Box::new(source.clone()), Arc::new(clock)), set)
}

/// Also what a suspended node looks like: the monotonic clock stood still.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_is_noticed_within_a_minute() {
    let source = Scripted::new();
    let (cache, ahead) = with_a_clock(&source);
    kept_fresh(&cache, async {
        assert!(ask(&cache, "r").await.is_ok());
        sleep(seconds(10)).await;
        *ahead.lock().unwrap() = 3000;
        sleep(seconds(60)).await;
        assert_eq!(source.begun(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_token_lives_longer_because_the_clock_is_set_back() {
    let source = Scripted::new().then("r", 0, Ok(1000)).then("r", 0, Ok(1000));
    let (cache, ahead) = with_a_clock(&source);
    assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
    *ahead.lock().unwrap() = -3000;
    sleep(seconds(699)).await;
    assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
    assert_eq!(source.begun(), 1);
    sleep(seconds(301)).await;
    assert_eq!(ask(&cache, "r").await, Ok("web/db#2".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_put_off_a_refresh() {
    let source = Scripted::new().then("r", 0, Ok(1000));
    let (cache, ahead) = with_a_clock(&source);
    kept_fresh(&cache, async {
        assert_eq!(ask(&cache, "r").await, Ok("web/db#1".to_owned()));
        *ahead.lock().unwrap() = -3000;
        sleep(seconds(699)).await;
        assert_eq!(source.begun(), 1);
        sleep(seconds(52)).await;
        assert_eq!(source.begun(), 2);
        assert_eq!(ask(&cache, "r").await, Ok("web/db#2".to_owned()));
    })
    .await;
}
