//! A query's answer: a pure function of the names.

use std::net::IpAddr;

use hickory_server::proto::op::{LowerQuery, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, NS, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::names::{Names, Zone};

/// How long a secondary would wait, seconds: there is none, and zone transfers are refused.
const SOA_TIMES: (i32, i32, i32) = (60, 10, 600);

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// How it went.
    pub code: ResponseCode,
    /// Whether this server has the name's zone.
    pub authoritative: bool,
    /// The records asked for.
    pub answers: Vec<Record>,
    /// The zone's SOA record, when something is not there.
    pub authority: Vec<Record>,
}

/// Answers a query.
pub fn answer(names: &Names, query: &LowerQuery) -> Answer {
    let zone = &names.zone;
    let name: &Name = query.name();
    let kind = query.query_type();
    let is_transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || !zone.name.zone_of(name) || is_transfer {
        return Answer::refused();
    }
    let depth = usize::from(name.num_labels() - zone.name.num_labels());
    // A name that is no text is not among ours.
    let labels: Option<Vec<&str>> =
        name.iter().take(depth).map(|label| std::str::from_utf8(label).ok()).collect();
    // The answer repeats the name as it was written in the query.
    let asked = query.original().name();
    match labels.as_deref() {
        Some([]) => apex(names, asked, kind),
        Some(["ns"]) if zone.server.is_some() => at(names, asked, kind, zone.server),
        Some([app]) if names.has_app(app) => Answer::nothing(names, ResponseCode::NoError),
        Some([service, app]) => alias(names, asked, kind, app, service),
        Some([id, service, app]) => match number(id).and_then(|id| names.instance(app, service, id)) {
            Some(address) => at(names, asked, kind, Some(address)),
            None => Answer::nothing(names, ResponseCode::NXDomain),
        },
        _ => Answer::nothing(names, ResponseCode::NXDomain),
    }
}

fn apex(names: &Names, name: &Name, kind: RecordType) -> Answer {
    let zone = &names.zone;
    match kind {
        RecordType::SOA | RecordType::ANY => Answer::found(vec![soa(names, name)]),
        RecordType::NS => {
            let ns = RData::NS(NS(below(zone, &["ns"])));
            Answer::found(vec![Record::from_rdata(name.clone(), zone.ttl, ns)])
        }
        _ => Answer::nothing(names, ResponseCode::NoError),
    }
}

/// A gateway's name: an alias of the instance whose turn it is.
fn alias(names: &Names, name: &Name, kind: RecordType, app: &str, service: &str) -> Answer {
    let Some((id, address)) = names.choose(app, service, kind == RecordType::AAAA) else {
        return Answer::nothing(names, ResponseCode::NXDomain);
    };
    let canonical = below(&names.zone, &[&id.to_string(), service, app]);
    let target = RData::CNAME(CNAME(canonical.clone()));
    let alias = Record::from_rdata(name.clone(), names.zone.ttl, target);
    // ANY gets the one record that the name itself has (RFC 8482).
    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
        return Answer::found(vec![alias]);
    }
    let mut answer = at(names, &canonical, kind, Some(address));
    answer.answers.insert(0, alias);
    answer
}

/// A name with one address.
fn at(names: &Names, name: &Name, kind: RecordType, address: Option<IpAddr>) -> Answer {
    let rdata = match (kind, address.map(|address| address.to_canonical())) {
        (RecordType::A | RecordType::ANY, Some(IpAddr::V4(address))) => RData::A(A(address)),
        (RecordType::AAAA | RecordType::ANY, Some(IpAddr::V6(address))) => RData::AAAA(AAAA(address)),
        _ => return Answer::nothing(names, ResponseCode::NoError),
    };
    Answer::found(vec![Record::from_rdata(name.clone(), names.zone.ttl, rdata)])
}

/// An instance's id as it stands in a canonical name, and in no other form.
fn number(label: &str) -> Option<u64> {
    label.parse().ok().filter(|id: &u64| id.to_string() == label)
}

fn below(zone: &Zone, labels: &[&str]) -> Name {
    labels.iter().rev().fold(zone.name.clone(), |name, label| {
        // What is too long for the DNS is not among the names.
        name.prepend_label(label.as_bytes()).unwrap_or(name)
    })
}

fn soa(names: &Names, name: &Name) -> Record {
    let (refresh, retry, expire) = SOA_TIMES;
    let zone = &names.zone;
    let (server, contact) = (below(zone, &["ns"]), below(zone, &["hostmaster"]));
    let soa = SOA::new(server, contact, names.serial(), refresh, retry, expire, zone.ttl);
    Record::from_rdata(name.clone(), zone.ttl, RData::SOA(soa))
}

impl Answer {
    fn found(answers: Vec<Record>) -> Self {
        Self { code: ResponseCode::NoError, authoritative: true, answers, authority: Vec::new() }
    }

    /// Nothing of that kind, or no such name: the SOA record says how long that holds (RFC 2308).
    fn nothing(names: &Names, code: ResponseCode) -> Self {
        let authority = vec![soa(names, &names.zone.name)];
        Self { code, authoritative: true, answers: Vec::new(), authority }
    }

    fn refused() -> Self {
        let code = ResponseCode::Refused;
        Self { code, authoritative: false, answers: Vec::new(), authority: Vec::new() }
    }
}
