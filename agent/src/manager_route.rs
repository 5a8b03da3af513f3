//! Which of several Managers this agent goes to (P3): the one it was told at its start, or the one that
//! owns this node, to which a Manager sends it with 307. One that is an earlier start of a Manager it has
//! registered with is refused: a copy of the database may run there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ssmmp::extension::{Epoch, Manager, ManagerAddress, Reason};
use ssmmp::{Envelope, Message, Status};
use tracing::info;

use crate::known_manager::KnownManager;

/// Managers that may send it on in a row before it begins anew.
const MAX_HOPS: u32 = 4;
/// Managers whose epochs are remembered; further ones are not.
const MAX_REMEMBERED: usize = 64;

/// Where the agent goes next.
#[derive(Debug)]
pub struct Route {
    home: String,
    sent_to: Option<String>,
    hops: u32,
    registered: bool,
    epochs: BTreeMap<String, u64>,
    known: KnownManager,
    /// Who has sent it on since it began at its home.
    senders: Vec<String>,
    met_stranger: bool,
}

impl Route {
    /// Begins at the Manager that the agent was told; running instances go to the known one only.
    pub fn new(home: String, known: KnownManager) -> Self {
        Self {
            home,
            sent_to: None,
            hops: 0,
            registered: false,
            epochs: BTreeMap::new(),
            known,
            senders: Vec::new(),
            met_stranger: false,
        }
    }

    /// The Manager to connect to.
    pub fn manager(&self) -> &str {
        self.sent_to.as_deref().unwrap_or(&self.home)
    }

    /// Whether a Manager has accepted the agent since this was asked.
    pub fn has_registered(&mut self) -> bool {
        std::mem::take(&mut self.registered)
    }

    /// Whether the latest Manager was another one than this node's running instances belong to.
    pub fn has_met_stranger(&self) -> bool {
        self.met_stranger
    }

    /// The Manager can't be reached: the first one knows who owns the node now.
    pub fn unreachable(&mut self) {
        (self.sent_to, self.hops) = (None, 0);
        self.senders.clear();
    }

    /// Looks at the answer to the registration, which has told of running instances or of none.
    ///
    /// # Errors
    /// Why this connection has to end.
    pub fn answered(&mut self, envelope: &Envelope, has_instances: bool) -> Result<(), String> {
        let Message::InitiationResponse(response) = &envelope.message else { return Ok(()) };
        match (response.status, envelope.line()) {
            (Status::OTHER_MANAGER, Some(ManagerAddress(address))) => {
                let reason = self.follow(address);
                self.senders.extend(envelope.line().map(|Manager(sender)| sender.to_owned()));
                Err(reason)
            }
            (status, _) if status.is_success() => self.accepted(envelope, has_instances),
            (status, _) if !status.is_final() => Ok(()),
            (status, _) => {
                let Reason(reason) = envelope.line().unwrap_or(Reason("it gave no reason"));
                Err(format!("it refuses this node ({status}): {reason}"))
            }
        }
    }

    fn follow(&mut self, address: SocketAddr) -> String {
        if self.hops == MAX_HOPS {
            self.unreachable();
            return format!("{MAX_HOPS} Managers have sent this agent on; it begins again at {}", self.home);
        }
        self.hops += 1;
        self.sent_to = Some(address.to_string());
        format!("this node belongs to the Manager at {address}")
    }

    fn accepted(&mut self, envelope: &Envelope, has_instances: bool) -> Result<(), String> {
        if let (Some(Manager(manager)), Some(Epoch(epoch))) = (envelope.line(), envelope.line()) {
            if let Some(newest) = self.epochs.get(manager).filter(|newest| **newest > epoch) {
                return Err(format!(
                    "it is an earlier start ({epoch}) of the Manager {manager} than the one that this agent knows ({newest}); end it"
                ));
            }
            if self.epochs.len() < MAX_REMEMBERED || self.epochs.contains_key(manager) {
                self.epochs.insert(manager.to_owned(), epoch);
            }
        }
        let manager = envelope.line().map(|Manager(manager)| manager);
        let accepted = self.known.accepts(manager, &self.senders, has_instances);
        self.met_stranger = accepted.is_err();
        if let Err(stranger) = accepted {
            // The next try begins where the known one may be.
            self.unreachable();
            return Err(stranger.to_string());
        }
        if let Some(owner) = &self.sent_to {
            info!(manager = owner, "the owner of this node has accepted it");
        }
        (self.hops, self.registered) = (0, true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ssmmp::{Hop, InitiationResponse, MessageId};

    use super::*;

    fn answer(status: Status) -> Envelope {
        let response = InitiationResponse { message_id: MessageId::from(1), status };
        Envelope::new(response, Hop::ManagerToAgent)
    }

    fn elsewhere() -> Envelope {
        answer(Status::OTHER_MANAGER).with(ManagerAddress("10.0.0.2:55555".parse().expect("an address")))
    }

    fn route() -> Route {
        Route::new("one:55555".into(), KnownManager::default())
    }

    #[test]
    fn an_agent_follows_to_the_owner_and_returns_when_it_is_gone() {
        let mut route = route();
        assert!(route.answered(&elsewhere(), true).is_err_and(|reason| reason.contains("10.0.0.2:55555")));
        assert_eq!(route.manager(), "10.0.0.2:55555");
        assert!(!route.has_registered());
        assert_eq!(route.answered(&answer(Status::OK), true), Ok(()));
        assert!(route.has_registered() && !route.has_registered());
        route.unreachable();
        assert_eq!(route.manager(), "one:55555");
    }

    #[test]
    fn a_refusal_ends_the_connection_and_its_reason_is_told() {
        let mut route = route();
        assert_eq!(route.answered(&answer(Status::CONTINUE), true), Ok(()));
        for status in [Status::BAD_REQUEST, Status::FORBIDDEN, Status::CONFLICT, Status::UNAVAILABLE] {
            let refused = answer(status).with(Reason("the name n0 belongs to another node"));
            let reason = route.answered(&refused, true).expect_err("refused");
            assert!(
                reason.contains("belongs to another node") && reason.contains(&status.to_string()),
                "{reason}"
            );
        }
        assert!(!route.has_registered());
    }

    #[test]
    fn managers_that_send_in_a_circle_are_left() {
        let mut route = route();
        for _ in 0..MAX_HOPS {
            assert!(route.answered(&elsewhere(), true).is_err());
            assert_eq!(route.manager(), "10.0.0.2:55555");
        }
        assert!(
            route.answered(&elsewhere(), true).is_err_and(|reason| reason.contains("begins again at one"))
        );
        assert_eq!(route.manager(), "one:55555");
    }

    #[test]
    fn an_earlier_start_of_a_known_manager_is_refused() {
        let mut route = route();
        let from = |manager, epoch| answer(Status::OK).with(Manager(manager)).with(Epoch(epoch));
        assert_eq!(route.answered(&from("m", 10), true), Ok(()));
        assert!(
            route.answered(&from("m", 9), true).is_err_and(|reason| reason.contains("earlier start (9)"))
        );
        assert_eq!(route.answered(&from("other", 1), false), Ok(()));
        assert_eq!(route.answered(&from("m", 10), false), Ok(()));
        assert_eq!(route.answered(&from("m", 11), true), Ok(()));
    }

    #[test]
    fn a_manager_that_is_not_the_known_one_is_left_unless_the_known_one_has_sent_the_agent_there() {
        let mut route = route();
        let from = |manager| answer(Status::OK).with(Manager(manager)).with(Epoch(1));
        assert_eq!(route.answered(&from("m"), true), Ok(()));
        assert!(route.has_registered());
        assert!(route.answered(&from("other"), true).is_err_and(|reason| reason.contains("the Manager m,")));
        assert!(route.has_met_stranger() && !route.has_registered());
        assert!(route.answered(&elsewhere().with(Manager("m")), true).is_err());
        assert_eq!(route.answered(&from("other"), true), Ok(()));
        assert!(route.has_registered() && !route.has_met_stranger());
    }
}
