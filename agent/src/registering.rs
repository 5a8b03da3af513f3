//! An agent registers while its kernel programs are loaded, which takes seconds where many agents start at once: its
//! Manager waits for it no longer than it has to. What the Manager asks meanwhile waits until everything is there.

use tokio::sync::mpsc;

use crate::core::{Core, Effect, Event};
use crate::manager_link::Queue;

/// Messages of the Manager that may wait; further ones wait in its connection.
const MAX_WAITING: usize = 1_024;

/// Does some work and registers meanwhile; returns what came of it, and what the Manager has said. The core is told
/// only that there is a connection, or no more.
pub async fn register_while<T>(
    core: &mut Core,
    manager: &Queue,
    events: &mut mpsc::Receiver<Event>,
    work: impl Future<Output = T>,
) -> (T, Vec<Event>) {
    let mut waiting = Vec::new();
    tokio::pin!(work);
    loop {
        let event = tokio::select! {
            done = &mut work => return (done, waiting),
            Some(event) = events.recv(), if waiting.len() < MAX_WAITING => event,
        };
        match event {
            Event::ManagerUp => {}
            // It asks again what it has not heard about.
            Event::ManagerLost => waiting.clear(),
            event => {
                waiting.push(event);
                continue;
            }
        }
        for effect in core.handle(event) {
            if let Effect::ToManager(envelope) = effect {
                // A queue that is full now will be told all again.
                manager.send(envelope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};

    use ssmmp::{Address, AgentHealthControlRequest, Envelope, Hop, InstanceId, Message, MessageId, Name};

    use super::*;
    use crate::core::profiles::Profiles;
    use crate::core::{Redirects, Start};
    use crate::manager_link;

    fn asked() -> Event {
        let request = AgentHealthControlRequest {
            message_id: MessageId::from(1),
            agent_network_address: Address::UNKNOWN,
        };
        Event::FromManager(Envelope::new(request, Hop::ManagerToAgent))
    }

    #[tokio::test]
    async fn it_registers_with_what_runs_and_the_managers_requests_wait() {
        let redirects = Redirects { description: "off".into(), sees_all: true, observes: false, harmless: 0 };
        let address = Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut repository = BTreeMap::new();
        let text = "[service.a]\nkind = \"native\"\nprogram = \"/bin/true\"\nsockets = [\"s\"]\n";
        repository.extend(crate::repository::parse("a file", text).expect("a repository"));
        let mut core = Core::new(address, "n".into(), redirects, repository, Profiles::default());
        core.expect(&Start::of(Name::new("a").expect("a name"), InstanceId(7)), true);
        core.expect(&Start::of(Name::new("unknown").expect("a name"), InstanceId(8)), true);
        let (queue, mut outbound) = manager_link::queue();
        let (sender, mut events) = mpsc::channel(16);
        let work = async {
            for event in [Event::ManagerUp, asked(), Event::ManagerLost, Event::ManagerUp] {
                sender.send(event).await.expect("there is room");
            }
            for _ in 0..2 {
                sender.send(asked()).await.expect("there is room");
            }
            // Others have their turn.
            while sender.capacity() < sender.max_capacity() {
                tokio::task::yield_now().await;
            }
            "done"
        };
        let (done, waiting) = register_while(&mut core, &queue, &mut events, work).await;
        assert_eq!((done, waiting.len()), ("done", 2), "those of a lost connection wait no more");
        let mut registrations = 0;
        while let Some(told) = outbound.next_now() {
            assert!(matches!(told.message, Message::InitiationRequest(_)), "{told:?}");
            assert_eq!(told.extension("x_running"), Some("a, 7, , running"), "what runs is told");
            registrations += 1;
        }
        assert_eq!(registrations, 2);
        assert!(!core.is_registered(), "nothing was answered");
    }
}
