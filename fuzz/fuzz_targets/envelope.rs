//! Whatever a peer sends: no panic, and what was understood is emitted and understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssmmp::{Envelope, Hop};

fuzz_target!(|line: &[u8]| {
    // Open: a tilde that is no separator where it stands may become one where its value is passed on.
    let tildes = line.iter().filter(|byte| **byte == b'~').count();
    let clean = line.windows(3).filter(|three| three == b" ~ ").count() == tildes;
    match Envelope::parse_bytes(line) {
        Ok(envelope) if !clean => drop(envelope.encode()),
        Ok(envelope) => {
            let sent = envelope.forward(Hop::AgentToManager);
            let wire = sent.encode();
            let again = Envelope::parse(wire.trim_end_matches('\n')).expect("what is emitted is understood");
            assert_eq!(again.message, sent.message);
        }
        Err(error) => {
            if let Some(refusal) = error.refusal.filter(|_| clean) {
                let wire = refusal.encode();
                Envelope::parse(wire.trim_end_matches('\n')).expect("a refusal is a message");
            }
        }
    }
});
