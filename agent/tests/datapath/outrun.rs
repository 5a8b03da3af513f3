//! Senders that outrun their readers: TCP stops them, and they come back to redirection.

use patchbay_agent::datapath::SessionReport;

use crate::reuse::run;

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

#[tokio::test]
async fn a_limit_of_the_programs_own_stays() {
    run("outrun.py", "own_limit").await;
}
