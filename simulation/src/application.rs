//! Applications and repositories of a run, as the files that people would write.

use patchbay_agent_core::repository::{Repository, parse};
use rand::Rng as _;
use rand::rngs::StdRng;

/// An application in two versions, so that applying it again changes something.
pub struct Application {
    /// Its name.
    pub name: String,
    /// Graph files.
    pub versions: [String; 2],
    /// Its services, for the repositories: name, whether adapted, sockets, plugs.
    pub services: Vec<(String, bool, Vec<String>, Vec<String>)>,
}

impl Application {
    /// A gateway, regular services in a chain, a backend, of random size.
    pub fn random(number: usize, large: bool, random: &mut StdRng) -> Self {
        let app = format!("app{number}");
        let regular = random.random_range(1..=if large { 6 } else { 3 });
        let gates = random.random_range(1..=2);
        let mut services: Vec<(String, bool, Vec<String>, Vec<String>)> = Vec::new();
        let name = |kind: &str, n: usize| format!("{kind}-{number}-{n}");
        for n in 0..gates {
            let plugs = (0..regular.min(2)).map(|n| format!("to-{n}")).collect();
            services.push((name("gate", n), false, vec!["http".into()], plugs));
        }
        for n in 0..regular {
            let adapted = random.random_bool(0.25);
            let mut plugs = vec!["data".to_owned()];
            if n + 2 < regular {
                plugs.push("next".into());
            }
            services.push((name("work", n), adapted, vec!["api".into(), "extra".into()], plugs));
        }
        services.push((name("data", 0), random.random_bool(0.5), vec!["store".into()], Vec::new()));
        let least = random.random_range(0..=if large { 20 } else { 2 });
        let versions = [0, 1].map(|version| graph(&app, number, &services, (least + version, version)));
        Self { name: app, versions, services }
    }
}

fn graph(
    app: &str,
    number: usize,
    services: &[(String, bool, Vec<String>, Vec<String>)],
    (least, version): (usize, usize),
) -> String {
    let mut text = format!("app = \"{app}\"\n");
    let mut connections = String::new();
    for (index, (name, _, sockets, plugs)) in services.iter().enumerate() {
        let kind = match name.split('-').next() {
            Some("gate") => "gateway",
            Some("data") => "baas",
            _ => "regular",
        };
        text.push_str(&format!("[service.{name}]\nkind = \"{kind}\"\n"));
        match kind {
            "gateway" => text.push_str(&format!("replicas = {{ min = 1, max = {} }}\n", 1 + version)),
            "regular" if index % 2 == 0 => {
                text.push_str(&format!("replicas = {{ min = {least}, max = {} }}\n", least + 2));
            }
            _ => {}
        }
        for socket in sockets {
            let port = match kind {
                "gateway" => format!(", port = {}", 8000 + number * 10 + index),
                _ => String::new(),
            };
            text.push_str(&format!("sockets.{socket} = {{ protocol = \"p\"{port} }}\n"));
        }
        for plug in plugs {
            text.push_str(&format!("plugs.{plug} = {{ protocol = \"p\" }}\n"));
            let to = match plug.as_str() {
                "data" => format!("data-{number}-0.store"),
                "next" => {
                    let own: usize = name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                    format!("work-{number}-{}.extra", own + 2)
                }
                to => format!("work-{number}-{}.api", to.trim_start_matches("to-")),
            };
            connections.push_str(&format!("[[connection]]\nfrom = \"{name}.{plug}\"\nto = \"{to}\"\n"));
        }
    }
    text + &connections
}

/// A node's repository: some of the services; the first node has all of them.
///
/// # Panics
/// The generated file is wrong, which is a mistake here.
pub fn repository(applications: &[Application], node: usize, random: &mut StdRng) -> Repository {
    let mut text = String::new();
    for (name, adapted, sockets, plugs) in applications.iter().flat_map(|app| &app.services) {
        if node > 0 && random.random_bool(0.3) {
            continue;
        }
        let kind = if *adapted { "adapted" } else { "native" };
        text.push_str(&format!(
            "[service.{name}]\nkind = \"{kind}\"\nprogram = \"/bin/sh\"\nsockets = {sockets:?}\nplugs = {plugs:?}\n"
        ));
    }
    match parse("repository", &text, |_, _| None) {
        Ok(repository) => repository,
        Err(problems) => panic!("a generated repository is wrong: {problems:?}\n{text}"),
    }
}
