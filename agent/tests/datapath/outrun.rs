//! Senders that outrun their readers: TCP stops them, and they come back to redirection.

use patchbay_agent::datapath::{Reason, SessionReport};

use crate::reuse::{run, run_with};

/// The share of the bytes from the source that were redirected, in percent.
fn share(sessions: &[SessionReport]) -> u64 {
    let [session] = sessions else { panic!("one session, not {sessions:?}") };
    let kernel = session.sent.kernel_bytes;
    100 * kernel / (kernel + session.sent.tcp_bytes).max(1)
}

macro_rules! come_back {
    ($($case:ident)*) => { $(
        /// It was 6 to 17 % while TCP took what it could.
        #[tokio::test]
        async fn $case() {
            let sessions = run("outrun.py", stringify!($case)).await;
            assert!(share(&sessions) >= 80, "{} %: {sessions:?}", share(&sessions));
        }
    )* };
}

come_back! {
    large_writes
    middle_writes
    small_writes
}

/// TCP is faster with small writes only where it merges them.
#[tokio::test]
async fn a_stream_of_small_writes_leaves_where_tcp_merges_them() {
    let reason = |sessions: &[SessionReport]| sessions.iter().find_map(|session| session.leaving);
    let merged = run_with(false, "outrun.py", "merged_writes").await;
    assert_eq!(reason(&merged), Some(Reason::SmallWrites), "{merged:?}");
    let separate = run_with(false, "outrun.py", "separate_writes").await;
    assert_eq!((reason(&separate), share(&separate)), (None, 100), "{separate:?}");
}

#[tokio::test]
async fn a_limit_of_the_programs_own_stays() {
    run("outrun.py", "own_limit").await;
}
