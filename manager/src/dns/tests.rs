//! Queries and what they are answered.

use std::str::FromStr;

use hickory_server::proto::op::{LowerQuery, Query};
use hickory_server::proto::rr::{Name, RecordType};
use ssmmp::InstanceId;

use super::*;
use patchbay_manager_core::Gateway;

fn names(gateways: &[(&str, &str, u64, &str, bool)]) -> Names {
    let zone = Zone {
        name: Name::from_str("patchbay.internal.").expect("a name"),
        ttl: 5,
        server: "10.0.0.9".parse().ok(),
    };
    let names = Names::new(zone, 1);
    set(&names, gateways);
    names
}

fn set(names: &Names, gateways: &[(&str, &str, u64, &str, bool)]) {
    let gateways = gateways.iter().map(|(app, service, id, address, stays)| Gateway {
        app: ssmmp::Name::new(app).expect("a name"),
        service: ssmmp::Name::new(service).expect("a name"),
        id: InstanceId(*id),
        address: address.parse().expect("an address"),
        stays: *stays,
    });
    names.set(gateways.collect());
}

/// The answer in few words: code, `aa`, the answers' data, and the authority's type.
fn ask(names: &Names, name: &str, kind: RecordType) -> String {
    let query = LowerQuery::query(Query::query(Name::from_str(name).expect("a name"), kind));
    let found = answer(names, &query);
    let data = found.answers.iter().map(|record| record.data.to_string());
    let authority = found.authority.iter().map(|record| format!("[{}]", record.record_type()));
    let authoritative = if found.authoritative { "" } else { "not ours" };
    let words = [format!("{:?}", found.code), authoritative.to_owned()];
    let words: Vec<_> =
        words.into_iter().chain(data).chain(authority).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

#[test]
fn an_alias_leads_to_each_instance_in_turn_whatever_families_are_asked_for() {
    let names = names(&[("shop", "web", 7, "10.0.0.1", true), ("shop", "web", 8, "10.0.0.2", true)]);
    let alias = "web.shop.patchbay.internal.";
    let (seven, eight) =
        ("NoError 7.web.shop.patchbay.internal. 10.0.0.1", "NoError 8.web.shop.patchbay.internal. 10.0.0.2");
    for expected in [seven, eight, seven, eight] {
        assert_eq!(ask(&names, alias, RecordType::A), expected);
        let none = ask(&names, alias, RecordType::AAAA);
        assert!(none.starts_with("NoError ") && none.ends_with(" [SOA]"), "no data for a real name: {none}");
    }
    assert_eq!(ask(&names, "7.web.shop.patchbay.internal.", RecordType::A), "NoError 10.0.0.1");
    assert_eq!(
        ask(&names, "WEB.Shop.patchbay.INTERNAL.", RecordType::CNAME),
        "NoError 7.web.shop.patchbay.internal."
    );
}

#[test]
fn each_family_gets_an_instance_that_has_it() {
    let names = names(&[("shop", "web", 7, "10.0.0.1", true), ("shop", "web", 8, "fd00::2", true)]);
    for _ in 0..3 {
        let alias = "web.shop.patchbay.internal.";
        assert_eq!(ask(&names, alias, RecordType::A), "NoError 7.web.shop.patchbay.internal. 10.0.0.1");
        assert_eq!(ask(&names, alias, RecordType::AAAA), "NoError 8.web.shop.patchbay.internal. fd00::2");
    }
}

#[test]
fn what_is_not_there_is_told_apart_from_what_has_no_such_record() {
    let names = names(&[("shop", "web", 7, "10.0.0.1", true)]);
    for (name, kind, expected) in [
        ("patchbay.internal.", RecordType::A, "NoError [SOA]"),
        ("patchbay.internal.", RecordType::NS, "NoError ns.patchbay.internal."),
        ("ns.patchbay.internal.", RecordType::A, "NoError 10.0.0.9"),
        ("shop.patchbay.internal.", RecordType::A, "NoError [SOA]"),
        ("other.patchbay.internal.", RecordType::A, "NXDomain [SOA]"),
        ("api.shop.patchbay.internal.", RecordType::A, "NXDomain [SOA]"),
        ("07.web.shop.patchbay.internal.", RecordType::A, "NXDomain [SOA]"),
        ("8.web.shop.patchbay.internal.", RecordType::A, "NXDomain [SOA]"),
        ("x.7.web.shop.patchbay.internal.", RecordType::A, "NXDomain [SOA]"),
        ("7.web.shop.patchbay.internal.", RecordType::MX, "NoError [SOA]"),
        ("7.web.shop.patchbay.internal.", RecordType::AAAA, "NoError [SOA]"),
        ("web.shop.patchbay.internal.", RecordType::ANY, "NoError 7.web.shop.patchbay.internal."),
        ("example.com.", RecordType::A, "Refused not ours"),
        ("internal.", RecordType::A, "Refused not ours"),
        ("patchbay.internal.", RecordType::AXFR, "Refused not ours"),
    ] {
        assert_eq!(ask(&names, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn names_end_with_their_instances_and_those_that_leave_are_avoided() {
    let names = names(&[("shop", "web", 7, "10.0.0.1", false), ("shop", "web", 8, "10.0.0.2", true)]);
    let alias = "web.shop.patchbay.internal.";
    for _ in 0..2 {
        assert_eq!(ask(&names, alias, RecordType::A), "NoError 8.web.shop.patchbay.internal. 10.0.0.2");
    }
    let before = names.serial();
    set(&names, &[("shop", "web", 7, "10.0.0.1", false)]);
    assert_eq!(ask(&names, alias, RecordType::A), "NoError 7.web.shop.patchbay.internal. 10.0.0.1");
    set(&names, &[]);
    assert_eq!(ask(&names, alias, RecordType::A), "NXDomain [SOA]");
    assert_eq!(ask(&names, "shop.patchbay.internal.", RecordType::A), "NXDomain [SOA]");
    assert!(names.serial() > before);
}
