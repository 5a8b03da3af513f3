//! Whatever a peer sends: no panic, and what was understood is emitted and understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssmmp::{Envelope, Hop};

fuzz_target!(|line: &[u8]| match Envelope::parse_bytes(line) {
    Ok(envelope) => {
        let sent = envelope.forward(Hop::AgentToManager);
        let wire = sent.encode();
        let again = Envelope::parse(wire.trim_end_matches('\n')).expect("what is emitted is understood");
        assert_eq!((&again.message, &again.extensions), (&sent.message, &sent.extensions));
        assert_eq!(again.forward(Hop::AgentToManager).encode(), wire);
    }
    Err(error) => {
        if let Some(refusal) = error.refusal {
            let wire = refusal.encode();
            if error.message_id.is_none() {
                // The id could not be read, so the answer has 0, which nobody may use.
                let usable = wire.replacen("message_id: 0", "message_id: 1", 1);
                Envelope::parse(usable.trim_end_matches('\n'))
                    .expect("but for its id a refusal is a message");
            } else {
                let again = Envelope::parse(wire.trim_end_matches('\n')).expect("a refusal is a message");
                assert_eq!(again.message, refusal.message);
            }
        }
    }
});
