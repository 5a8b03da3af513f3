//! A CA's life on disk, handshakes between what it made, and everything that must be refused.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Installation {
    _folder: tempfile::TempDir,
    ca: AuthorityFolder,
    now: SystemTime,
}

fn node(name: &str) -> Role {
    Role::Node(name.into())
}

impl Installation {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (ca, now) = (AuthorityFolder::at(folder.path().join("c")), SystemTime::now());
        ca.make(now, 100 * DAY).expect("made");
        let this = Self { _folder: folder, ca, now };
        this.issue(&Role::Manager, 10 * DAY);
        this
    }

    fn issue(&self, role: &Role, valid: Duration) -> PathBuf {
        let names = match role {
            Role::Manager => Names { hosts: vec!["h".into()], addresses: vec![[10, 0, 0, 1].into()] },
            _ => Names::default(),
        };
        self.ca.issue(role, &names, self.now, valid).expect("issued");
        self.ca.of(role)
    }

    fn manager(&self) -> Identity {
        load(&self.ca.of(&Role::Manager), Expected::Manager, self.now).expect("the Manager's")
    }
}

fn problem(folder: &Path, expected: Expected<'_>, now: SystemTime) -> String {
    load(folder, expected, now).expect_err("refused").to_string()
}

/// Both ends' messages to and fro until neither has more; what each says at the end.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Result<(), io::Error>, Result<Option<Role>, io::Error>) {
    let name = ServerName::try_from(MANAGER_NAME).expect("a name");
    let mut client = ClientConnection::new(client, name).expect("configured");
    let mut server = ServerConnection::new(server).expect("configured");
    let (mut of_client, mut of_server) = (Ok(()), Ok(()));
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("a vector");
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() && server.read_tls(&mut bytes).is_ok() {
            of_server = of_server.and(server.process_new_packets().map(drop).map_err(invalid));
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("a vector");
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() && client.read_tls(&mut bytes).is_ok() {
            of_client = of_client.and(client.process_new_packets().map(drop).map_err(invalid));
        }
    }
    let role = || {
        assert!(!server.is_handshaking());
        About::read(&server.peer_certificates()?[0]).ok()?.role
    };
    (of_client, of_server.map(|()| role()))
}

#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(SystemTime::UNIX_EPOCH).ok()?))
    }
}

#[test]
fn a_node_and_the_manager_prove_themselves_to_each_other() {
    let at = Installation::new();
    let folder = at.issue(&node("a"), DAY);
    let identity = load(&folder, Expected::Node("a"), at.now).expect("good");
    assert!((DAY.as_secs() as i64 - 1..=DAY.as_secs() as i64).contains(&identity.about.seconds_left(at.now)));
    let (client, server) = handshake(identity.to_manager.clone(), at.manager().for_agents);
    client.expect("the Manager is proven");
    assert_eq!(server.expect("the node is proven"), Some(node("a")));
    let about = at.manager().about;
    assert_eq!(about.names, ["h", MANAGER_NAME, "10.0.0.1"]);
    assert_eq!(fingerprint(&at.manager().authorities[0]).len(), 64);
}

#[test]
fn a_node_is_no_manager_and_another_ca_nobody() {
    let (at, other) = (Installation::new(), Installation::new());
    let a = load(&at.issue(&node("a"), DAY), Expected::Node("a"), at.now).expect("good");
    let stranger = load(&other.issue(&node("a"), DAY), Expected::Node("a"), at.now).expect("good");
    // A node's certificate where the Manager's must be.
    let (client, _) = handshake(a.to_manager.clone(), a.for_agents.clone());
    let said = refusal(&client.expect_err("no Manager"), "the Manager");
    assert!(said.contains("the Manager's certificate is refused"), "{said}");
    // The Manager's where a node's must be.
    let (_, server) = handshake(at.manager().to_manager, at.manager().for_agents);
    let said = refusal(&server.expect_err("no client"), "the agent");
    assert!(said.contains("another purpose"), "{said}");
    // A Manager of another CA, and a node of another CA.
    let (client, server) = handshake(stranger.to_manager.clone(), at.manager().for_agents);
    let said = refusal(&client.expect_err("another CA"), "the Manager");
    assert!(said.contains("another CA"), "{said}");
    let said = refusal(&server.expect_err("told so"), "the agent");
    assert!(said.contains("its CA is another one"), "{said}");
    // Whoever trusts this CA without being of it.
    let mut thief = (*a.to_manager).clone();
    thief.client_auth_cert_resolver = stranger.to_manager.client_auth_cert_resolver.clone();
    let (client, server) = handshake(Arc::new(thief), at.manager().for_agents);
    let said = refusal(&server.expect_err("another CA"), "the agent");
    assert!(said.contains("another CA"), "{said}");
    let said = refusal(&client.expect_err("told so"), "the Manager");
    assert!(said.contains("refuses the certificate of this side: its CA is another one"), "{said}");
}

#[test]
fn a_revoked_or_expired_certificate_and_none_at_all_are_refused_in_words() {
    let at = Installation::new();
    let a = load(&at.issue(&node("a"), DAY), Expected::Node("a"), at.now).expect("good");
    let live = Live::read(at.ca.of(&Role::Manager), Expected::Manager).expect("good");
    assert!(!live.current().has_revoked(&a.about.serial));
    assert_eq!(at.ca.revoke(&node("a"), at.now).expect("revoked"), 1);
    // Until it is read again, the list is the earlier one.
    handshake(a.to_manager.clone(), live.current().for_agents.clone()).1.expect("as before");
    assert!(live.reload().expect("good").has_revoked(&a.about.serial));
    let (client, server) = handshake(a.to_manager.clone(), live.current().for_agents.clone());
    assert!(refusal(&server.expect_err("revoked"), "the agent").ends_with("is refused: it was revoked"));
    assert!(refusal(&client.expect_err("revoked"), "the Manager").ends_with("it was revoked"));
    let again = at.ca.revoke(&node("a"), at.now).expect_err("once").to_string();
    assert!(again.contains("revoked or has expired already"), "{again}");
    // Another node is as before, and renewal is refused to the revoked one.
    let b = load(&at.issue(&node("b"), DAY), Expected::Node("b"), at.now).expect("good");
    handshake(b.to_manager.clone(), live.current().for_agents.clone()).1.expect("not revoked");
    assert!(at.ca.renew(&node("a"), at.now, DAY).expect_err("no").to_string().contains("new key"));

    let mut late = (*live.current().for_agents).clone();
    late.time_provider = Arc::new(At(at.now + 2 * DAY));
    let (client, server) = handshake(b.to_manager.clone(), Arc::new(late.clone()));
    assert!(refusal(&server.expect_err("expired"), "the agent").ends_with("it has expired"));
    assert!(refusal(&client.expect_err("expired"), "the Manager").contains("has expired, or its clock"));
    late.time_provider = Arc::new(At(at.now - DAY));
    let (_, server) = handshake(b.to_manager.clone(), Arc::new(late));
    assert!(refusal(&server.expect_err("early"), "the agent").contains("not valid yet"));

    let mut none = (*b.to_manager).clone();
    none.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (client, server) = handshake(Arc::new(none.clone()), live.current().for_agents.clone());
    assert!(refusal(&server.expect_err("none"), "the agent").contains("has no certificate"));
    assert!(refusal(&client.expect_err("none"), "the Manager").contains("there is none"));
    let mut http = none;
    http.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (_, server) = handshake(Arc::new(http), live.current().for_people.clone());
    assert_eq!(server.expect("people need none"), None);
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_folder_that_is_not_right_is_refused_with_file_fault_and_remedy() {
    let at = Installation::new();
    let folder = at.issue(&node("a"), DAY);
    let now = at.now;
    let expected = Expected::Node("a");
    let with = |name: &str, text: &str| {
        let (file, earlier) = (folder.join(name), fs::read_to_string(folder.join(name)).ok());
        fs::write(&file, text).expect("written");
        let said = problem(&folder, expected, now);
        match earlier {
            Some(earlier) => fs::write(&file, earlier).expect("written"),
            None => fs::remove_file(&file).expect("removed"),
        }
        load(&folder, expected, now).expect("as before");
        said
    };
    let cut = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).expect("there");
        with(name, &text[..text.len() * 2 / 3])
    };
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let said = cut(name);
        assert!(said.contains(name) && said.contains("cut off"), "{said}");
        let said = with(name, "");
        assert!(said.contains(name) && said.contains("there is no"), "{said}");
    }
    let said = with("revoked.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    assert!(said.contains("no revocation list"), "{said}");

    let other = Installation::new();
    let theirs = other.issue(&node("a"), DAY);
    let text = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).expect("there");
    let said = with("key.pem", &text(&theirs, "key.pem"));
    assert!(said.contains("key.pem: this key is not the certificate's"), "{said}");
    let said = with("ca.pem", &text(&theirs, "ca.pem"));
    assert!(said.contains("cert.pem: another CA than the one in ca.pem"), "{said}");
    let said = with("ca.pem", &text(&folder, "cert.pem"));
    assert!(said.contains("is no CA"), "{said}");
    other.ca.revoke(&node("a"), now).expect("revoked");
    let said = with("revoked.crl", &text(&other.ca.of(&Role::Manager), "revoked.crl"));
    assert!(said.contains("has not signed this list"), "{said}");

    let mode = |mode| {
        fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(mode)).expect("set");
    };
    mode(0o640);
    let said = problem(&folder, expected, now);
    assert!(said.contains("its mode is 0640") && said.contains("chmod 600"), "{said}");
    mode(0o600);

    let said = problem(&folder, expected, now + 2 * DAY);
    assert!(said.contains(&format!("valid until {}", shown_time(now + DAY))), "{said}");
    assert!(said.contains(&format!("clock says {}", shown_time(now + 2 * DAY))), "{said}");
    assert!(said.contains("patchbay certs renew a"), "{said}");
    let said = problem(&folder, expected, now - DAY);
    assert!(said.contains("is valid from") && said.contains("set this machine's clock"), "{said}");
    let said = problem(&folder, Expected::Node("b"), now);
    assert!(said.contains("it is the certificate of node a, and node b's is needed"), "{said}");
    let said = problem(&folder, Expected::Manager, now);
    assert!(said.contains("and the Manager's is needed"), "{said}");
    let said = problem(&at.ca.of(&node("none")), expected, now);
    assert!(said.contains("can't be read"), "{said}");

    at.ca.revoke(&node("a"), now).expect("revoked");
    let said = with("revoked.crl", &text(&at.ca.of(&Role::Manager), "revoked.crl"));
    assert!(said.contains("cert.pem: it was revoked"), "{said}");
}

#[test]
fn self_signed_ones_name_nobody_whatever_they_say() {
    let at = Installation::new();
    let folder = at.issue(&node("a"), DAY);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let uri = node("a").to_uri().try_into().expect("ASCII");
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    let own = params.self_signed(&key).expect("signed");
    fs::write(folder.join("key.pem"), key.serialize_pem()).expect("written");
    fs::write(folder.join("cert.pem"), own.pem()).expect("written");
    let said = problem(&folder, Expected::Node("a"), at.now);
    assert!(said.contains("self-signed"), "{said}");
}

#[test]
fn a_ca_replaces_nothing_and_its_files_are_its_owners() {
    let at = Installation::new();
    let folder = at.issue(&node("a"), DAY);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        assert_eq!(mode(&folder.join(name)), 0o600);
    }
    assert_eq!(mode(&folder), 0o700);
    let there = at.ca.make(at.now, DAY).err().expect("there").to_string();
    assert!(there.contains("nothing is replaced"), "{there}");
    let there = at.ca.issue(&node("a"), &Names::default(), at.now, DAY).expect_err("there").to_string();
    assert!(there.contains("patchbay certs renew"), "{there}");
    let longer = at.ca.issue(&node("l"), &Names::default(), at.now, 101 * DAY).expect_err("longer");
    assert!(longer.to_string().contains("the CA itself is valid until"), "{longer}");
    for bad in ["../x", "", "a/b", "."] {
        assert!(at.ca.issue(&node(bad), &Names::default(), at.now, DAY).is_err(), "{bad}");
    }
    let none = AuthorityFolder::at(folder).authority().err().expect("no CA").to_string();
    assert!(none.contains("patchbay certs init"), "{none}");
}

#[test]
fn renewal_keeps_key_and_names_and_what_is_shown_tells_which_one_counts() {
    let at = Installation::new();
    let folder = at.issue(&node("a"), DAY);
    let key = fs::read(folder.join("key.pem")).expect("there");
    let earlier = load(&folder, Expected::Node("a"), at.now).expect("good").about;
    at.ca.renew(&node("a"), at.now, 3 * DAY).expect("renewed");
    let later = load(&folder, Expected::Node("a"), at.now + 2 * DAY).expect("good").about;
    assert_ne!(earlier.serial, later.serial);
    assert_eq!(fs::read(folder.join("key.pem")).expect("there"), key);
    at.ca.renew(&Role::Manager, at.now, 20 * DAY).expect("renewed");
    assert_eq!(at.manager().about.names, ["h", MANAGER_NAME, "10.0.0.1"]);
    let state = |serial: &str| {
        let shown = at.ca.show(at.now).expect("shown");
        shown.iter().find(|shown| shown.about.serial == serial).expect("shown").state
    };
    assert_eq!((state(&earlier.serial), state(&later.serial)), (State::Replaced, State::Valid));
    assert_eq!(at.ca.revoke(&node("a"), at.now).expect("revoked"), 2);
    assert_eq!((state(&earlier.serial), state(&later.serial)), (State::Revoked, State::Revoked));
    let of_nobody = at.ca.revoke(&node("z"), at.now).expect_err("nobody").to_string();
    assert!(of_nobody.contains("no certificate was ever made for node z"), "{of_nobody}");
}

#[test]
fn a_signing_request_gets_the_name_it_is_given_not_the_one_it_asks_for() {
    let at = Installation::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names.push(rcgen::SanType::URI(Role::Manager.to_uri().try_into().expect("ASCII")));
    params.subject_alt_names.push(rcgen::SanType::DnsName(MANAGER_NAME.try_into().expect("ASCII")));
    let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let issued = at.ca.sign(&node("a"), &request, at.now, DAY).expect("signed");
    assert_eq!((issued.about.role, issued.about.names), (Some(node("a")), vec![]));
    for bad in ["", "x", &"y".repeat(100_000), &request[..request.len() / 2]] {
        assert!(at.ca.sign(&node("a"), bad, at.now, DAY).is_err());
    }
    // One whose signature is another key's.
    let der = pem_body(&request);
    let mut forged = der.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = rcgen::CertificateSigningRequestParams::from_der(&forged.as_slice().into());
    assert!(forged.is_err());
}

fn pem_body(text: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).expect("PEM").to_vec()
}

#[test]
fn tls_and_ssmmp_are_told_apart_by_their_first_bytes() {
    assert!(looks_like_tls(&[0x16, 3, 1, 0, 5]) && looks_like_tls(&[0x15, 3, 3]));
    assert!(
        !looks_like_tls(b"type: initiation_request ~ ") && !looks_like_tls(&[0x16]) && !looks_like_tls(b"")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in the files, reading them ends with a problem or an identity, never in a panic.
    #[test]
    fn any_bytes_in_any_file_are_a_problem(
        which in 0usize..4,
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        whole in any::<bool>(),
    ) {
        static SHARED: std::sync::OnceLock<Vec<(&'static str, Vec<u8>)>> = std::sync::OnceLock::new();
        let files = SHARED.get_or_init(|| {
            let installation = Installation::new();
            let folder = installation.issue(&node("a"), DAY);
            installation.issue(&node("b"), DAY);
            installation.ca.revoke(&node("b"), installation.now).expect("revoked");
            let list = fs::read(installation.ca.of(&Role::Manager).join("revoked.crl")).expect("there");
            let read = |name| (name, fs::read(folder.join(name)).expect("there"));
            vec![read("ca.pem"), read("cert.pem"), read("key.pem"), ("revoked.crl", list)]
        });
        let folder = tempfile::tempdir().expect("a folder");
        for (place, (name, good)) in files.iter().enumerate() {
            let mut text = good.clone();
            if place == which {
                if whole {
                    text.clone_from(&bytes);
                } else {
                    let from = at.index(text.len());
                    let until = (from + bytes.len()).min(text.len());
                    text.splice(from..until, bytes.iter().copied());
                }
            }
            fs::write(folder.path().join(name), text).expect("written");
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(folder.path().join(name), mode).expect("set");
        }
        if let Err(problem) = load(folder.path(), Expected::Node("a"), SystemTime::now()) {
            prop_assert!(problem.file.starts_with(folder.path()));
            prop_assert!(!problem.what.is_empty() && !problem.remedy.is_empty());
        }
    }
}
